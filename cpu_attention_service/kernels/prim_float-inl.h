// Primitives of f32, bf16 and f16 for any vec_*.h: elements are widened to f32 as they are loaded, products are f32
// fused multiply-adds, weights stay f32. Included after decode_attention-inl.h.
#include "cpu_attention_service/kernels/kernel_step.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// The loops over sums are unrolled by pragma: rolled, the compiler keeps the sums in memory.
//
// Registers: rows times vectors of a subgroup (scores, two phases each) or of dims (values) that are summed at once.
constexpr uint32_t kScoreRows = Vec::kLanes == 16 ? 8 : Vec::kLanes == 8 ? 2 : 1;
constexpr uint32_t kValueRows = Vec::kLanes == 16 ? 4 : Vec::kLanes == 8 ? 2 : 1;
constexpr uint32_t kValueVecs = 4;
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
template <KvStorage kStorage, uint32_t kRows>
inline void ScoreSlot(const float* q, uint32_t padded_dim, const unsigned char* k,
                      const unsigned char* next_k, float* scores) {
  Vec even[kRows][kSubgroupVecs], odd[kRows][kSubgroupVecs];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kSubgroupVecs; ++i) even[row][i] = odd[row][i] = Vec::Zero();
  }
  constexpr uint32_t kPairBytes = 2 * kKvSubgroupTokens * (kStorage == KvStorage::kF32 ? 4 : 2);
  for (uint32_t dim = 0; dim < padded_dim; dim += 2) {
    if (next_k != nullptr) {
      for (uint32_t line = 0; line < kPairBytes; line += 64) {
        PrefetchCodeLine(next_k + dim / 2 * kPairBytes + line);
      }
    }
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
}

template <KvStorage kStorage>
void ScoreFloat(const KernelRows& rows, const void* prepared, const KernelStep& step,
                float* scores) {
  const float* q = static_cast<const float*>(prepared);
  const uint32_t dims = rows.padded_dim;
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    const unsigned char* k = step.k[slot];
    float* to = scores + slot * kKvSubgroupTokens;
    uint32_t row = 0;
    const auto next_k = [&] { return step.prefetch && row == 0 ? step.next_k[slot] : nullptr; };
    for (; row + kScoreRows <= rows.num_rows; row += kScoreRows) {
      ScoreSlot<kStorage, kScoreRows>(q + row * dims, dims, k, next_k(), to + row * kKvTileTokens);
    }
    if constexpr (kScoreRows > 4) {
      for (; row + 4 <= rows.num_rows; row += 4) {
        ScoreSlot<kStorage, 4>(q + row * dims, dims, k, next_k(), to + row * kKvTileTokens);
      }
    }
    for (; row < rows.num_rows; ++row) {
      ScoreSlot<kStorage, 1>(q + row * dims, dims, k, next_k(), to + row * kKvTileTokens);
    }
  }
}

// Dims [first_dim, first_dim + kVecs * kLanes) of one chunk of a slot, for kRows rows.
template <KvStorage kStorage, uint32_t kRows, uint32_t kVecs>
inline void AccumulateDims(const float* weights, uint32_t padded_dim, const unsigned char* v,
                           uint32_t chunk_dims, const unsigned char* next_v, float* acc) {
  constexpr uint32_t kPack = kStorage == KvStorage::kBf16 ? 2 : 1;
  constexpr uint32_t kElementBytes = kStorage == KvStorage::kF32 ? 4 : 2;
  Vec sums[kRows][kVecs];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      sums[row][i] = Vec::Load(acc + row * padded_dim + i * Vec::kLanes);
    }
  }
#pragma GCC unroll 1  // unrolled, the sums no longer fit the registers
  for (uint32_t token = 0; token < kKvSubgroupTokens; token += kPack) {
    const unsigned char* at = v + token * chunk_dims * kElementBytes;
    if (next_v != nullptr) {
      for (uint32_t line = 0; line < kVecs * Vec::kLanes * kPack * kElementBytes; line += 64) {
        PrefetchCodeLine(next_v + token * chunk_dims * kElementBytes + line);
      }
    }
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
        if constexpr (kPack == 2) {
          sums[row][i] = MulAdd(Vec::Broadcast(weight[1]), second, sums[row][i]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      sums[row][i].Store(acc + row * padded_dim + i * Vec::kLanes);
    }
  }
}

template <KvStorage kStorage, uint32_t kRows>
inline void AccumulateSlot(const float* weights, uint32_t padded_dim, const unsigned char* v,
                           const unsigned char* next_v, float* acc) {
  constexpr uint32_t kPack = kStorage == KvStorage::kBf16 ? 2 : 1;
  constexpr uint32_t kElementBytes = kStorage == KvStorage::kF32 ? 4 : 2;
  constexpr uint32_t kWide = kValueVecs * Vec::kLanes;
  for (uint32_t chunk = 0; chunk < padded_dim; chunk += kKvChunkDims) {
    const uint32_t rest = padded_dim - chunk;
    const uint32_t chunk_dims = rest < kKvChunkDims ? rest : kKvChunkDims;
    const uint64_t chunk_begin = uint64_t{chunk} * kKvSubgroupTokens * kElementBytes;
    uint32_t dim = 0;
    const auto at = [&](const unsigned char* codes) {
      return codes == nullptr ? nullptr : codes + chunk_begin + dim * kPack * kElementBytes;
    };
    for (; dim + kWide <= chunk_dims; dim += kWide) {
      AccumulateDims<kStorage, kRows, kValueVecs>(weights, padded_dim, at(v), chunk_dims,
                                                  at(next_v), acc + chunk + dim);
    }
    for (; dim < chunk_dims; dim += Vec::kLanes) {
      AccumulateDims<kStorage, kRows, 1>(weights, padded_dim, at(v), chunk_dims, at(next_v),
                                         acc + chunk + dim);
    }
  }
}

template <KvStorage kStorage>
void AccumulateFloat(const KernelRows& rows, const KernelStep& step, float* weights,
                     float* weight_sum, float* acc) {
  const uint32_t dims = rows.padded_dim;
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    const float* of_slot = weights + slot * kKvSubgroupTokens;
    uint32_t row = 0;
    const auto next_v = [&] { return step.prefetch && row == 0 ? step.next_v[slot] : nullptr; };
    for (; row + kValueRows <= rows.num_rows; row += kValueRows) {
      AccumulateSlot<kStorage, kValueRows>(of_slot + row * kKvTileTokens, dims, step.v[slot],
                                           next_v(), acc + row * dims);
    }
    for (; row < rows.num_rows; ++row) {
      AccumulateSlot<kStorage, 1>(of_slot + row * kKvTileTokens, dims, step.v[slot], next_v(),
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
