// Copies of V with zeros in place of tokens that a row does not see, for the steps at the edges of a range and for
// single tokens: weight 0 alone would turn an Inf or NaN there (a stored one, or what lies in tokens that are not
// stored yet) into NaN. Included by decode_attention-inl.h.
#pragma once

#include "cpu_attention_service/kernels/step_source-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

constexpr uint32_t kMaxRunBytes = 64;  // of the codes of 16 lanes

struct MaskedValues {
  alignas(64) unsigned char v[kKvTileSubgroups][kKvSubgroupTokens * limits::kMaxHeadDim * 4];
  alignas(64) unsigned char params[kKvTileSubgroups][kKvTileTokens * 2];
};

// The bits of a run of 16 lanes that belong to tokens of `tokens` (bit i: part i of each lane).
inline void KeepPattern(KvStorage storage, uint32_t tokens, unsigned char* keep) {
  const uint32_t code_bits = KvCodeBits(storage);
  for (uint32_t i = 0; i < kMaxRunBytes; ++i) keep[i] = 0;
  for (uint32_t part = 0; part < KvPack(storage); ++part) {
    if (((tokens >> part) & 1) == 0) continue;
    for (uint32_t lane = 0; lane < 16; ++lane) {
      const uint32_t first_bit = KvLaneOffset(storage, lane, part) * code_bits;
      for (uint32_t bit = first_bit; bit < first_bit + code_bits; bit += 4) {
        keep[bit / 8] |= 0xf << (bit % 8);
      }
    }
  }
}

// Works on the order that KvVElementIndex states: runs of 16 dims, each with `pack` tokens.
inline void MaskCodes(const KvTileLayout& layout, const unsigned char* from, uint32_t tokens, unsigned char* to) {
  const uint32_t pack = KvPack(layout.v_storage);
  const uint32_t run_bytes = 16 * pack * KvCodeBits(layout.v_storage) / 8;
  unsigned char keep[kMaxRunBytes];
  for (uint32_t strip = 0; strip < layout.padded_dim; strip += kKvStripDims) {
    const uint32_t rest = layout.padded_dim - strip;
    const uint32_t dims = rest < kKvStripDims ? rest : kKvStripDims;
    for (uint32_t token = 0; token < kKvSubgroupTokens; token += pack) {
      KeepPattern(layout.v_storage, tokens >> token, keep);
      for (uint32_t dim = 0; dim < dims; dim += 16, from += run_bytes, to += run_bytes) {
        for (uint32_t i = 0; i < run_bytes; ++i) to[i] = from[i] & keep[i];
      }
    }
  }
}

// Params are a plane of 64 u16, or nothing.
inline void MaskParams(const KvTileLayout& layout, const unsigned char* from, uint32_t subgroup, uint32_t tokens,
                       unsigned char* to) {
  const uint32_t param_bytes = KvParamBytesPerToken(layout.v_storage);
  const uint32_t begin = subgroup * kKvSubgroupTokens * param_bytes;
  for (uint32_t i = 0; i < kKvSubgroupTokens * param_bytes; ++i) {
    to[begin + i] = ((tokens >> (i / param_bytes)) & 1) != 0 ? from[begin + i] : 0;
  }
}

// `step` with copies for the slots of which not all tokens are visible.
inline KernelStep WithMaskedValues(const KvTileLayout& layout, const KernelStep& step, const uint32_t* tokens,
                                   MaskedValues* masked) {
  KernelStep result = step;
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    if (tokens[slot] == kAllTokens) continue;
    MaskCodes(layout, step.v[slot], tokens[slot], masked->v[slot]);
    MaskParams(layout, step.v_params[slot], step.subgroup[slot], tokens[slot], masked->params[slot]);
    result.v[slot] = masked->v[slot];
    result.v_params[slot] = masked->params[slot];
  }
  return result;
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
