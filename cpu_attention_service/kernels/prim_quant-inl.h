// Primitives of int8, int4 and fp8-e4m3 for any ISA: a subgroup's codes are turned into f32 in the layout of f32
// storage, in the L1 cache, and the primitives of f32 do the rest. The rotated storages (attention/kv/kv_quantise.h)
// rotate q before and the sums after. Plain loops over 16 lanes, which the compiler vectorises for the ISA. Included
// after prim_float-inl.h.
#include "attention/kv/hadamard.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// Codes of one subgroup as f32: 16 KiB at the largest head_dim, which stays in the L1 cache.
struct WidenedSubgroup {
  alignas(64) float values[kKvSubgroupTokens * limits::kMaxHeadDim];
};

inline float FloatOfBits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// bf16 scales of the subgroup's 16 tokens.
inline void LoadScales(const unsigned char* params, uint32_t subgroup, float* scales) {
  uint16_t bits[kKvSubgroupTokens];
  __builtin_memcpy(bits, params + subgroup * sizeof(bits), sizeof(bits));
  for (uint32_t t = 0; t < kKvSubgroupTokens; ++t) scales[t] = FloatOfBits(uint32_t{bits[t]} << 16);
}

// Seven bits shifted to f32's place give the value times 2^-120, subnormals too; all ones are NaN.
inline float FloatOfFp8(uint32_t code) {
  const uint32_t magnitude = code & 0x7f;
  const float value = FloatOfBits(magnitude << 20) * 0x1p120f;
  const uint32_t bits = magnitude == 0x7f ? 0x7fc00000u : [&] {
    uint32_t raw;
    __builtin_memcpy(&raw, &value, sizeof(raw));
    return raw;
  }();
  return FloatOfBits(bits | ((code & 0x80) << 24));
}

// Element `part` of 16 lanes, without its scale. kOffset: what is stored minus the code (of int8: K 128, V 0).
template <KvStorage kStorage, int kOffset>
inline void WidenLanes(const unsigned char* run, uint32_t part, float* values) {
  if constexpr (kStorage == KvStorage::kFp8E4m3) {
    for (uint32_t lane = 0; lane < 16; ++lane) {
      values[lane] = FloatOfFp8(run[KvLaneOffset(kStorage, lane, part)]);
    }
    return;
  }
  uint32_t words[16];
  __builtin_memcpy(words, run, sizeof(words));
  for (uint32_t lane = 0; lane < 16; ++lane) {
    if constexpr (kStorage == KvStorage::kInt4) {
      const uint32_t code = words[lane] >> (part % 4 * 8 + part / 4 * 4) & 0xf;
      values[lane] = static_cast<float>(static_cast<int32_t>(code)) - 7.5f;
    } else {
      const int32_t code = static_cast<int32_t>(words[lane] << (24 - part * 8));
      values[lane] = static_cast<float>(
          kOffset == 0 ? code >> 24 : static_cast<int32_t>(static_cast<uint32_t>(code) >> 24) - kOffset);
    }
  }
}

// K codes of 16 tokens -> [padded_dim][16 tokens].
template <KvStorage kStorage>
inline void WidenK(const KernelStep& step, uint32_t slot, uint32_t padded_dim, const unsigned char* next_k,
                   float* values) {
  constexpr uint32_t kPack = KvPack(kStorage);
  float scales[kKvSubgroupTokens];
  if constexpr (kStorage != KvStorage::kFp8E4m3) {
    LoadScales(step.k_params[slot], step.subgroup[slot], scales);
  }
  for (uint32_t dim = 0; dim < padded_dim; dim += kPack) {
    const uint32_t at = dim / kPack * 64;
    if (next_k != nullptr) PrefetchCodeLine(next_k + at);
    for (uint32_t part = 0; part < kPack; ++part) {
      float* to = values + (dim + part) * kKvSubgroupTokens;
      WidenLanes<kStorage, 128>(step.k[slot] + at, part, to);
      if constexpr (kStorage != KvStorage::kFp8E4m3) {
        for (uint32_t t = 0; t < kKvSubgroupTokens; ++t) to[t] *= scales[t];
      }
    }
  }
}

// V codes of 16 tokens -> [strips of 64 dims][16 tokens][dims of the strip].
template <KvStorage kStorage>
inline void WidenV(const KernelStep& step, uint32_t slot, uint32_t padded_dim, const unsigned char* next_v,
                   float* values) {
  constexpr uint32_t kPack = KvPack(kStorage);
  float scales[kKvSubgroupTokens];
  if constexpr (kStorage != KvStorage::kFp8E4m3) {
    LoadScales(step.v_params[slot], step.subgroup[slot], scales);
  }
  const unsigned char* run = step.v[slot];
  for (uint32_t strip = 0; strip < padded_dim; strip += kKvStripDims) {
    const uint32_t rest = padded_dim - strip;
    const uint32_t dims = rest < kKvStripDims ? rest : kKvStripDims;
    for (uint32_t token = 0; token < kKvSubgroupTokens; token += kPack) {
      for (uint32_t dim = 0; dim < dims; dim += 16, run += 64) {
        if (next_v != nullptr) PrefetchCodeLine(next_v + (run - step.v[slot]));
        for (uint32_t part = 0; part < kPack; ++part) {
          float* to = values + strip * kKvSubgroupTokens + (token + part) * dims + dim;
          WidenLanes<kStorage, 0>(run, part, to);
          if constexpr (kStorage != KvStorage::kFp8E4m3) {
            for (uint32_t lane = 0; lane < 16; ++lane) to[lane] *= scales[token + part];
          }
        }
      }
    }
  }
}

// A step of one slot, of f32 codes.
inline KernelStep StepOfWidened(const WidenedSubgroup& widened) {
  KernelStep step = {};
  step.num_slots = 1;
  step.k[0] = step.v[0] = reinterpret_cast<const unsigned char*>(widened.values);
  return step;
}

inline void RotateRows(const KernelRows& rows, float* values) {
  for (uint32_t row = 0; row < rows.num_rows; ++row) {
    HadamardRotate(values + row * rows.padded_dim, rows.layout->head_dim);
  }
}

template <KvStorage kStorage>
void PrepareWidened(const KernelRows& rows, const float* q, void* prepared) {
  PrepareF32(rows, q, prepared);
  if (IsRotatedKvStorage(kStorage)) RotateRows(rows, static_cast<float*>(prepared));
}

template <KvStorage kStorage>
void ScoreWidened(const KernelRows& rows, const void* prepared, const KernelStep& step, float* scores) {
  WidenedSubgroup widened;
  const KernelStep of_widened = StepOfWidened(widened);
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    WidenK<kStorage>(step, slot, rows.padded_dim, step.prefetch ? step.next_k[slot] : nullptr, widened.values);
    ScoreFloat<KvStorage::kF32>(rows, prepared, of_widened, scores + slot * kKvSubgroupTokens);
  }
}

template <KvStorage kStorage>
void AccumulateWidened(const KernelRows& rows, const KernelStep& step, float* weights, float* weight_sum, float* acc) {
  WidenedSubgroup widened;
  const KernelStep of_widened = StepOfWidened(widened);
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    WidenV<kStorage>(step, slot, rows.padded_dim, step.prefetch ? step.next_v[slot] : nullptr, widened.values);
    AccumulateFloat<KvStorage::kF32>(rows, of_widened, weights + slot * kKvSubgroupTokens, weight_sum, acc);
  }
}

template <KvStorage kStorage>
constexpr KPrimitive kWidenedK = {&PrepareWidened<kStorage>, &ScoreWidened<kStorage>};
template <KvStorage kStorage>
constexpr VPrimitive kWidenedV = {&AccumulateWidened<kStorage>, /*exact_weights=*/true,
                                  IsRotatedKvStorage(kStorage) ? &RotateRows : nullptr};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
