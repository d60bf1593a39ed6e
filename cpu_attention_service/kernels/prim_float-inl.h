// Primitives of f32, bf16 and f16 for any vec_*.h: elements are widened to f32 as they are loaded, products are f32
// fused multiply-adds, weights stay f32. Included after decode_attention-inl.h.
#include "cpu_attention_service/kernels/kernel_step.h"
#include "cpu_attention_service/kernels/lines_ahead-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// The loops over sums are unrolled by pragma: rolled, the compiler keeps the sums in memory.
//
// Registers: rows times vectors of a subgroup (scores, two phases each) or of dims (values) that are summed at once.
constexpr uint32_t kScoreRows = Vec::kLanes == 16 ? 8 : Vec::kLanes == 8 ? 2 : 1;
constexpr uint32_t kValueRows = Vec::kLanes == 16 ? 4 : Vec::kLanes == 8 ? 2 : 1;
// bf16 with 16 lanes takes half as many vectors, so that two lines are read side by side and not four: 0.93 to 0.98 of
// the read ceiling instead of 0.88 to 0.95 (AMD Zen 5, two threads and one).
template <KvStorage kStorage>
constexpr uint32_t kValueVecs = (Vec::kLanes == 16 && kStorage == KvStorage::kBf16) ? 2 : 4;
constexpr uint32_t kSubgroupVecs = kKvSubgroupTokens / Vec::kLanes;

inline void PrepareF32(const KernelRows& rows, const float* q, void* prepared) {
  __builtin_memcpy(prepared, q, uint64_t{rows.num_rows} * rows.padded_dim * sizeof(float));
}

// kLanes tokens of dims `dim` (kOdd: `dim` + 1) of a subgroup's K codes; dim is even.
template <KvStorage kStorage, bool kOdd>
inline Vec LoadK(const unsigned char* k, uint32_t dim, uint32_t vec) {
  const uint32_t element = (dim + (kOdd ? 1 : 0)) * kKvSubgroupTokens + vec * Vec::kLanes;
  if constexpr (kStorage == KvStorage::kF32) {
    return Vec::Load(reinterpret_cast<const float*>(k) + element);
  } else if constexpr (kStorage == KvStorage::kF16) {
    return Vec::LoadF16(reinterpret_cast<const uint16_t*>(k) + element);
  } else {
    const unsigned char* pairs = k + (dim * kKvSubgroupTokens + vec * 2 * Vec::kLanes) * 2;
    return kOdd ? Vec::LoadHighBf16(pairs) : Vec::LoadLowBf16(pairs);
  }
}

// Scores of kRows rows for one slot.
template <KvStorage kStorage, uint32_t kRows, typename Lines>
inline void ScoreSlot(const float* q, uint32_t padded_dim, const unsigned char* k, Lines* ahead, float* scores) {
  constexpr uint32_t kPairLines = 2 * kKvSubgroupTokens * (kStorage == KvStorage::kF32 ? 4 : 2) / 64;
  Lines lines = *ahead;
  Vec even[kRows][kSubgroupVecs], odd[kRows][kSubgroupVecs];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kSubgroupVecs; ++i) even[row][i] = odd[row][i] = Vec::Zero();
  }
  for (uint32_t dim = 0; dim < padded_dim; dim += 2) {
    lines.template Prefetch<kPairLines>();
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kSubgroupVecs; ++i) {
      const Vec k_even = LoadK<kStorage, false>(k, dim, i);
      const Vec k_odd = LoadK<kStorage, true>(k, dim, i);
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) {
        const float* q_pair = q + row * padded_dim + dim;
        even[row][i] = MulAdd(Vec::Broadcast(q_pair[0]), k_even, even[row][i]);
        odd[row][i] = MulAdd(Vec::Broadcast(q_pair[1]), k_odd, odd[row][i]);
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kSubgroupVecs; ++i) {
      Add(even[row][i], odd[row][i]).Store(scores + row * kKvTileTokens + i * Vec::kLanes);
    }
  }
  lines.Count(padded_dim / 2 * kPairLines);
  *ahead = lines;
}

// Scores as many of `num_rows` rows as one block takes; returns how many.
template <KvStorage kStorage, typename Lines>
inline uint32_t ScoreSlotRows(uint32_t num_rows, const float* q, uint32_t padded_dim, const unsigned char* k,
                              Lines* ahead, float* scores) {
  if (num_rows >= kScoreRows) {
    ScoreSlot<kStorage, kScoreRows>(q, padded_dim, k, ahead, scores);
    return kScoreRows;
  }
  if constexpr (kScoreRows > 4) {
    if (num_rows >= 4) {
      ScoreSlot<kStorage, 4>(q, padded_dim, k, ahead, scores);
      return 4;
    }
  }
  ScoreSlot<kStorage, 1>(q, padded_dim, k, ahead, scores);
  return 1;
}

template <KvStorage kStorage>
void ScoreFloat(const KernelRows& rows, const void* prepared, const KernelStep& step, float* scores) {
  const float* q = static_cast<const float*>(prepared);
  const uint32_t dims = rows.padded_dim;
  LinesAhead lines = {};
  if (step.prefetch) lines = LinesOf(step.next_k, rows.layout->k_subgroup_bytes);
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    const unsigned char* k = step.k[slot];
    float* to = scores + slot * kKvSubgroupTokens;
    uint32_t row = 0;
    if (step.prefetch) row = ScoreSlotRows<kStorage>(rows.num_rows, q, dims, k, &lines, to);
    while (row < rows.num_rows) {
      NoLines none;
      row += ScoreSlotRows<kStorage>(rows.num_rows - row, q + row * dims, dims, k, &none, to + row * kKvTileTokens);
    }
  }
}

// Dims [first_dim, first_dim + kVecs * kLanes) of one strip of a slot, for kRows rows.
template <KvStorage kStorage, uint32_t kRows, uint32_t kVecs, typename Lines>
inline void AccumulateDims(const float* weights, uint32_t padded_dim, const unsigned char* v, uint32_t strip_dims,
                           Lines* ahead, float* acc) {
  constexpr uint32_t kPack = kStorage == KvStorage::kBf16 ? 2 : 1;
  constexpr uint32_t kElementBytes = kStorage == KvStorage::kF32 ? 4 : 2;
  constexpr uint32_t kLines = kVecs * Vec::kLanes * kPack * kElementBytes / 64;
  // The tokens of a pair have sums of their own, for which 16 lanes have registers: eight sums that take two products
  // each are as late as the products are long. On Sapphire Rapids the kernel is a tenth faster so, on AMD Zen 5 as
  // fast.
  constexpr bool kSumsPerToken = kPack == 2 && Vec::kLanes == 16;
  static_assert(!kSumsPerToken || 2 * kRows * kVecs <= 16);
  Lines lines = *ahead;
  Vec sums[kRows][kVecs], second_sums[kRows][kVecs];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      sums[row][i] = Vec::Load(acc + row * padded_dim + i * Vec::kLanes);
      if constexpr (kSumsPerToken) second_sums[row][i] = Vec::Zero();
    }
  }
#pragma GCC unroll 1  // unrolled, the sums no longer fit the registers
  for (uint32_t token = 0; token < kKvSubgroupTokens; token += kPack) {
    const unsigned char* at = v + token * strip_dims * kElementBytes;
    lines.template Prefetch<kLines>();
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      const uint32_t dim = i * Vec::kLanes;
      Vec first, second;
      if constexpr (kStorage == KvStorage::kF32) {
        first = Vec::Load(reinterpret_cast<const float*>(at) + dim);
      } else if constexpr (kStorage == KvStorage::kF16) {
        first = Vec::LoadF16(reinterpret_cast<const uint16_t*>(at) + dim);
      } else {
        first = Vec::LoadLowBf16(at + dim * 4);
        second = Vec::LoadHighBf16(at + dim * 4);
      }
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) {
        const float* weight = weights + row * kKvTileTokens + token;
        sums[row][i] = MulAdd(Vec::Broadcast(weight[0]), first, sums[row][i]);
        if constexpr (kSumsPerToken) {
          second_sums[row][i] = MulAdd(Vec::Broadcast(weight[1]), second, second_sums[row][i]);
        } else if constexpr (kPack == 2) {
          sums[row][i] = MulAdd(Vec::Broadcast(weight[1]), second, sums[row][i]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      if constexpr (kSumsPerToken) sums[row][i] = Add(sums[row][i], second_sums[row][i]);
      sums[row][i].Store(acc + row * padded_dim + i * Vec::kLanes);
    }
  }
  lines.Count(kKvSubgroupTokens / kPack * kLines);
  *ahead = lines;
}

template <KvStorage kStorage, uint32_t kRows, typename Lines>
inline void AccumulateSlot(const float* weights, uint32_t padded_dim, const unsigned char* v, Lines* ahead,
                           float* acc) {
  constexpr uint32_t kPack = kStorage == KvStorage::kBf16 ? 2 : 1;
  constexpr uint32_t kElementBytes = kStorage == KvStorage::kF32 ? 4 : 2;
  constexpr uint32_t kVecs = kValueVecs<kStorage>;
  constexpr uint32_t kWide = kVecs * Vec::kLanes;
  for (uint32_t strip = 0; strip < padded_dim; strip += kKvStripDims) {
    const uint32_t rest = padded_dim - strip;
    const uint32_t strip_dims = rest < kKvStripDims ? rest : kKvStripDims;
    const unsigned char* v_strip = v + uint64_t{strip} * kKvSubgroupTokens * kElementBytes;
    uint32_t dim = 0;
    for (; dim + kWide <= strip_dims; dim += kWide) {
      AccumulateDims<kStorage, kRows, kVecs>(weights, padded_dim, v_strip + dim * kPack * kElementBytes, strip_dims,
                                             ahead, acc + strip + dim);
    }
    for (; dim < strip_dims; dim += Vec::kLanes) {
      AccumulateDims<kStorage, kRows, 1>(weights, padded_dim, v_strip + dim * kPack * kElementBytes, strip_dims, ahead,
                                         acc + strip + dim);
    }
  }
}

// Adds the values for as many of `num_rows` rows as one block takes; returns how many.
template <KvStorage kStorage, typename Lines>
inline uint32_t AccumulateSlotRows(uint32_t num_rows, const float* weights, uint32_t padded_dim, const unsigned char* v,
                                   Lines* ahead, float* acc) {
  if (num_rows >= kValueRows) {
    AccumulateSlot<kStorage, kValueRows>(weights, padded_dim, v, ahead, acc);
    return kValueRows;
  }
  AccumulateSlot<kStorage, 1>(weights, padded_dim, v, ahead, acc);
  return 1;
}

template <KvStorage kStorage>
void AccumulateFloat(const KernelRows& rows, const KernelStep& step, float* weights, float* weight_sum, float* acc) {
  const uint32_t dims = rows.padded_dim;
  LinesAhead lines = {};
  if (step.prefetch) lines = LinesOf(step.next_v, rows.layout->v_subgroup_bytes);
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    const float* of_slot = weights + slot * kKvSubgroupTokens;
    const unsigned char* v = step.v[slot];
    uint32_t row = 0;
    if (step.prefetch) {
      row = AccumulateSlotRows<kStorage>(rows.num_rows, of_slot, dims, v, &lines, acc);
    }
    while (row < rows.num_rows) {
      NoLines none;
      row += AccumulateSlotRows<kStorage>(rows.num_rows - row, of_slot + row * kKvTileTokens, dims, v, &none,
                                          acc + row * dims);
    }
  }
}

template <KvStorage kStorage>
constexpr KPrimitive kFloatK = {&PrepareF32, &ScoreFloat<kStorage>};
template <KvStorage kStorage>
constexpr VPrimitive kFloatV = {&AccumulateFloat<kStorage>, /*exact_weights=*/true};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
