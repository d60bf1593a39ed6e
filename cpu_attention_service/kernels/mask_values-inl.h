// Copies of V with zeros in place of tokens that a row does not see, for the steps at the edges of a range and for single
// tokens: weight 0 alone would turn an Inf or NaN there (a stored one, or what lies in tokens that are not stored yet)
// into NaN. Included by decode_attention-inl.h.
#pragma once

#include "cpu_attention_service/kernels/step_source-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

struct MaskedValues {
  alignas(64) unsigned char v[kKvTileSubgroups][kKvSubgroupTokens * limits::kMaxHeadDim * 4];
  alignas(64) unsigned char params[kKvTileSubgroups][kKvTileTokens * 8];
};

// All codes are copied by 32-bit words; a word holds the elements of `pack` consecutive tokens of one dim (or, of f16,
// two dims of one token). Works on the order that KvVElementIndex states.
inline void MaskCodes(const KvTileLayout& layout, const unsigned char* from, uint32_t tokens,
                      unsigned char* to) {
  const uint32_t code_bits = KvCodeBits(layout.v_storage);
  const uint32_t pack = KvPack(layout.v_storage);
  const uint32_t element = code_bits == 32 ? ~0u : (1u << code_bits) - 1;
  for (uint32_t chunk = 0; chunk < layout.padded_dim; chunk += kKvChunkDims) {
    const uint32_t rest = layout.padded_dim - chunk;
    const uint32_t dims = rest < kKvChunkDims ? rest : kKvChunkDims;
    const uint32_t words = dims * pack * code_bits / 32;
    for (uint32_t token = 0; token < kKvSubgroupTokens; token += pack) {
      uint32_t keep = 0;
      for (uint32_t i = 0; i < pack; ++i) {
        if (((tokens >> (token + i)) & 1) != 0) keep |= element << (i * code_bits);
      }
      if (pack == 1 && keep != 0) keep = ~0u;
      for (uint32_t word = 0; word < words; ++word, from += 4, to += 4) {
        uint32_t value;
        __builtin_memcpy(&value, from, 4);
        value &= keep;
        __builtin_memcpy(to, &value, 4);
      }
    }
  }
}

// Params are planes of 64 f32.
inline void MaskParams(const KvTileLayout& layout, const unsigned char* from, uint32_t subgroup,
                       uint32_t tokens, unsigned char* to) {
  const uint32_t planes = KvParamBytesPerToken(layout.v_storage) / 4;
  for (uint32_t plane = 0; plane < planes; ++plane) {
    for (uint32_t token = 0; token < kKvSubgroupTokens; ++token) {
      const uint32_t at = (plane * kKvTileTokens + subgroup * kKvSubgroupTokens + token) * 4;
      uint32_t value;
      __builtin_memcpy(&value, from + at, 4);
      if (((tokens >> token) & 1) == 0) value = 0;
      __builtin_memcpy(to + at, &value, 4);
    }
  }
}

// `step` with copies for the slots of which not all tokens are visible.
inline KernelStep WithMaskedValues(const KvTileLayout& layout, const KernelStep& step,
                                   const uint32_t* tokens, MaskedValues* masked) {
  KernelStep result = step;
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    if (tokens[slot] == kAllTokens) continue;
    MaskCodes(layout, step.v[slot], tokens[slot], masked->v[slot]);
    MaskParams(layout, step.v_params[slot], step.subgroup[slot], tokens[slot],
               masked->params[slot]);
    result.v[slot] = masked->v[slot];
    result.v_params[slot] = masked->params[slot];
  }
  return result;
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
