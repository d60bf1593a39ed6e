// Values of int8 and int4 with vpdpbusd (AVX512-VNNI). Included after prim_int_dot-inl.h.
//
// Weights times the tokens' scales are rounded to 8 bits of the largest in the step, or to 16 bits where 8 would be too
// coarse (NeedsSixteenBits), and are the unsigned side; codes of V are the signed side. Sums of a step are exact.
namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

constexpr float kCoarseLevels = 255.0f;
constexpr float kFineLevels = 65280.0f;  // 255 * 256

// Weights of up to four rows, times the scales of V, as bytes of neighbouring tokens.
struct IntWeights {
  alignas(64) uint32_t high[4][kKvTileTokens / 4];  // 8 bits: all there is
  alignas(64) uint32_t low[4][kKvTileTokens / 4];
  alignas(16) float scale[4];  // of one unit
  alignas(16) float begin[4];  // int4: -7.5 * sum of the weights, in units
};

// 8 bits of the largest weight lose up to 1/510 of it per token. Against the sum of all weights so far that is nothing
// in a long context, and much where one token of the step outweighs the rest: then the step gets 16 bits. With this
// ratio the errors of a call, which are independent, stay below 1e-3 of the largest |value| (docs/numerics.md).
constexpr float kCoarseRatio = 1.0f / 64;

struct StepScales {
  __m512 of_slot[kKvTileSubgroups];  // zeros where there is no slot
  float largest;
};

template <uint32_t kRows>
struct ScaledWeights {
  __m512 values[kRows][kKvTileSubgroups];
  __m128 largest;  // of each row: at least 2^-100; NaN if any is NaN
};

// Lane i: the maximum (sum) over all lanes of x[i]; of less than four rows the first one again.
template <uint32_t kRows>
inline __m128i MaxOfEach(const __m512i* x) {
  const __m512i &a = x[0], &b = x[1 % kRows], &c = x[2 % kRows], &d = x[3 % kRows];
  const __m512i ab = _mm512_max_epu32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_max_epu32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i abcd = _mm512_max_epu32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_max_epu32(_mm512_castsi512_si256(abcd), _mm512_extracti64x4_epi64(abcd, 1));
  return _mm_max_epu32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
template <uint32_t kRows>
inline __m128 SumOfEach(const __m512* x) {
  const __m512 &a = x[0], &b = x[1 % kRows], &c = x[2 % kRows], &d = x[3 % kRows];
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// Weights are not negative, so that their bits have their order, NaN last: the maximum of f32 would lose a NaN.
template <uint32_t kRows>
inline ScaledWeights<kRows> ScaleWeights(const StepScales& scales, uint32_t num_slots, const float* weights) {
  ScaledWeights<kRows> scaled;
  __m512i largest[kRows];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
    largest[row] = _mm512_castps_si512(_mm512_set1_ps(0x1p-100f));
#pragma GCC unroll 16
    for (uint32_t slot = 0; slot < kKvTileSubgroups; ++slot) {
      const __mmask16 present = slot < num_slots ? 0xffff : 0;
      const __m512 weight = _mm512_maskz_loadu_ps(present, weights + row * kKvTileTokens + slot * kKvSubgroupTokens);
      scaled.values[row][slot] = _mm512_mul_ps(scales.of_slot[slot], weight);
      largest[row] = _mm512_max_epu32(largest[row], _mm512_castps_si512(scaled.values[row][slot]));
    }
  }
  scaled.largest = _mm_castsi128_ps(MaxOfEach<kRows>(largest));
  return scaled;
}

// Whether 16 bits are needed by any row; its running sums are `weight_sum`.
template <uint32_t kRows>
inline bool NeedsSixteenBits(const ScaledWeights<kRows>& scaled, const StepScales& scales, const float* weight_sum) {
  __m512 sums[kRows];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
    sums[row] = _mm512_loadu_ps(weight_sum + row * kWeightSumLanes);
  }
  const __m128 bound = _mm_mul_ps(SumOfEach<kRows>(sums), _mm_set1_ps(kCoarseRatio * scales.largest));
  return _mm_movemask_ps(_mm_cmple_ps(scaled.largest, bound)) != 0xf;
}

// Four vectors of values below 2^16 -> their (low or high) bytes, in order.
inline __m512i BytesInOrder(__m512i words01, __m512i words23) {
  const __m512i by_slot = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  return _mm512_permutexvar_epi32(by_slot, _mm512_packus_epi16(words01, words23));
}

template <KvStorage kStorage, bool kFine, uint32_t kRows>
inline void RoundIntWeights(const ScaledWeights<kRows>& scaled, IntWeights* rounded) {
  constexpr float kLevels = kFine ? kFineLevels : kCoarseLevels;
  alignas(16) float inverses[4];
  _mm_store_ps(inverses, _mm_div_ps(_mm_set1_ps(kLevels), scaled.largest));
  _mm_store_ps(rounded->scale, _mm_mul_ps(scaled.largest, _mm_set1_ps(1 / kLevels)));
  __m512 sums[kRows];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
    const __m512 inverse = _mm512_set1_ps(inverses[row]);
    __m512i codes[kKvTileSubgroups];
#pragma GCC unroll 16
    for (uint32_t slot = 0; slot < kKvTileSubgroups; ++slot) {
      codes[slot] = _mm512_cvtps_epi32(_mm512_mul_ps(scaled.values[row][slot], inverse));
    }
    const __m512i words01 = _mm512_packus_epi32(codes[0], codes[1]);
    const __m512i words23 = _mm512_packus_epi32(codes[2], codes[3]);
    if constexpr (kFine) {
      const __m512i low_byte = _mm512_set1_epi16(0xff);
      _mm512_store_si512(rounded->high[row],
                         BytesInOrder(_mm512_srli_epi16(words01, 8), _mm512_srli_epi16(words23, 8)));
      _mm512_store_si512(rounded->low[row],
                         BytesInOrder(_mm512_and_si512(words01, low_byte), _mm512_and_si512(words23, low_byte)));
    } else {
      _mm512_store_si512(rounded->high[row], BytesInOrder(words01, words23));
    }
    if constexpr (kStorage == KvStorage::kInt4) {
      const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(codes[0], codes[1]), _mm512_add_epi32(codes[2], codes[3]));
      sums[row] = _mm512_cvtepi32_ps(sum);
    }
  }
  if constexpr (kStorage == KvStorage::kInt4) {
    _mm_store_ps(rounded->begin, _mm_mul_ps(SumOfEach<kRows>(sums), _mm_set1_ps(-7.5f)));
  }
}

// The result is in units of the weights' scale.
template <KvStorage kStorage, bool kFine>
inline __m512 ValueOfSums(__m512i sum, __m512i low_sum, float begin) {
  if (kFine) sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), low_sum);
  const __m512 value = _mm512_cvtepi32_ps(sum);
  return kStorage == KvStorage::kInt4 ? _mm512_add_ps(value, _mm512_set1_ps(begin)) : value;
}

template <uint32_t kCount>
__attribute__((always_inline)) inline void SetZero(__m512i* sums) {
#pragma GCC unroll 64
  for (uint32_t i = 0; i < kCount; ++i) sums[i] = _mm512_setzero_si512();
}

// Between K and V, the softmax and the rounding of the weights take a fifth of an int8 step. So that requests go on
// meanwhile, most of a run's lines of V are prefetched then, row by row (VPrimitive::early_bytes), and one for four
// lines of V read: 0.92 of the read ceiling, where all at once behind the softmax reach 0.87, and one for each line
// read 0.81 (AMD Zen 5). Of int4, which computes as long as it reads, each line when one is read.
constexpr uint32_t kLinesPerPrefetch = 4;

template <KvStorage kStorage, Fetch kFetch>
constexpr bool kFetchesEarly = kStorage == KvStorage::kInt8&& kFetch == Fetch::kRun;

// This is VPrimitive::early_bytes of int8.
inline uint32_t EarlyBytes(uint32_t padded_dim) {
  const uint32_t lines = padded_dim * kKvTileTokens / 64;
  return (lines - lines / kLinesPerPrefetch) * 64;
}

// Adds the sums of a step, [part][row][vector of dims], to acc.
template <KvStorage kStorage, uint32_t kRows, uint32_t kVecs, bool kFine>
__attribute__((always_inline)) inline void AddSums(const __m512i (*sums)[kRows][kVecs], const IntWeights& weights,
                                                   uint32_t first_row, uint32_t padded_dim, float* acc) {
  constexpr uint32_t kLowPart = kFine ? 1 : 0;
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
    const __m512 scale = _mm512_set1_ps(weights.scale[first_row + row]);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      const __m512 value =
          ValueOfSums<kStorage, kFine>(sums[0][row][i], sums[kLowPart][row][i], weights.begin[first_row + row]);
      float* at = acc + row * padded_dim + i * 16;
      _mm512_storeu_ps(at, _mm512_fmadd_ps(value, scale, _mm512_loadu_ps(at)));
    }
  }
}

// 16 * kVecs dims from `dim` of the strip that begins at `strip`, for kRows rows, over all slots.
template <KvStorage kStorage, uint32_t kRows, uint32_t kVecs, bool kFine, Fetch kFetch>
[[gnu::noinline]] void AccumulateIntDims(const KernelStep& step, uint32_t strip_begin, uint32_t strip_dims,
                                         const IntWeights& weights, uint32_t first_row, uint32_t padded_dim,
                                         LinesAhead* ahead, float* acc) {
  constexpr uint32_t kHalves = kStorage == KvStorage::kInt4 ? 2 : 1;
  constexpr uint32_t kLines = kKvSubgroupTokens / (4 * kHalves);  // of a slot
  constexpr uint32_t kParts = kFine ? 2 : 1;
  __m512i sums[kParts][kRows][kVecs];
  SetZero<kParts * kRows * kVecs>(&sums[0][0][0]);
  constexpr bool kEarly = kFetchesEarly<kStorage, kFetch>;
  LinesAhead lines;
  if constexpr (kEarly || kFetch == Fetch::kPieces) lines = *ahead;
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    const unsigned char* v = step.v[slot] + strip_begin;
    const unsigned char* next_v = nullptr;
    if constexpr (kFetch == Fetch::kRun) next_v = step.next_v[slot] + strip_begin;
#pragma GCC unroll 1
    for (uint32_t line = 0; line < kLines; ++line, v += strip_dims * 4) {
      __m512i codes[kVecs];
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kVecs; ++i) {
        if constexpr (kFetch == Fetch::kPieces) lines.template Prefetch<1>();
        if constexpr (kFetch == Fetch::kRun && !kEarly) {
          PrefetchCodeLine(next_v + line * strip_dims * 4 + i * 64);
        }
        codes[i] = _mm512_loadu_si512(v + i * 64);
      }
      if (kEarly && (kVecs == kLinesPerPrefetch || line == kLines - 1)) {
        lines.template Prefetch<1>();
      }
#pragma GCC unroll 16
      for (uint32_t half = 0; half < kHalves; ++half) {
        const uint32_t quad = slot * 4 + line * kHalves + half;
        __m512i values[kVecs];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < kVecs; ++i) {
          values[i] = kHalves == 1 ? codes[i] : half == 0 ? LowNibbles(codes[i]) : HighNibbles(codes[i]);
        }
#pragma GCC unroll 16
        for (uint32_t row = 0; row < kRows; ++row) {
          const __m512i high = BroadcastQuad(weights.high[first_row + row][quad]);
#pragma GCC unroll 16
          for (uint32_t i = 0; i < kVecs; ++i) {
            sums[0][row][i] = DotU8S8(sums[0][row][i], high, values[i]);
          }
          if constexpr (kFine) {
            const __m512i low = BroadcastQuad(weights.low[first_row + row][quad]);
#pragma GCC unroll 16
            for (uint32_t i = 0; i < kVecs; ++i) {
              sums[1][row][i] = DotU8S8(sums[1][row][i], low, values[i]);
            }
          }
        }
      }
    }
    if constexpr (kFetch == Fetch::kPieces) lines.Count(kLines * kVecs);
  }
  if constexpr (kEarly || kFetch == Fetch::kPieces) *ahead = lines;
  AddSums<kStorage, kRows, kVecs, kFine>(sums, weights, first_row, padded_dim, acc);
}

// All dims of kRows rows.
template <KvStorage kStorage, uint32_t kRows, bool kFine, Fetch kFetch>
inline void AccumulateIntRows(const KernelStep& step, const IntWeights& weights, uint32_t first_row,
                              uint32_t padded_dim, float* acc) {
  constexpr uint32_t kBytesPerDim = kKvSubgroupTokens * (kStorage == KvStorage::kInt4 ? 4 : 8) / 8;
  uint32_t dim = 0;
  LinesAhead ahead;
  if constexpr (kFetch == Fetch::kPieces) ahead = LinesOf(step.next_v, padded_dim * kBytesPerDim);
  if constexpr (kFetchesEarly<kStorage, kFetch>) {
    ahead = LinesFrom(step.next_v[0] + EarlyBytes(padded_dim));
  }
  for (; dim + kKvStripDims <= padded_dim; dim += kKvStripDims) {
    AccumulateIntDims<kStorage, kRows, 4, kFine, kFetch>(step, dim * kBytesPerDim, kKvStripDims, weights, first_row,
                                                         padded_dim, &ahead, acc + dim);
  }
  const uint32_t rest = padded_dim - dim;
  for (uint32_t i = 0; i < rest; i += 16) {
    AccumulateIntDims<kStorage, kRows, 1, kFine, kFetch>(step, dim * kBytesPerDim + i * 4, rest, weights, first_row,
                                                         padded_dim, &ahead, acc + dim + i);
  }
}

template <KvStorage kStorage, uint32_t kRows, Fetch kFetch>
inline void AccumulateIntBlock(const KernelStep& step, const StepScales& scales, const float* weights,
                               const float* weight_sum, uint32_t padded_dim, float* acc) {
  const ScaledWeights<kRows> scaled = ScaleWeights<kRows>(scales, step.num_slots, weights);
  IntWeights rounded;
  if (!NeedsSixteenBits(scaled, scales, weight_sum)) {
    RoundIntWeights<kStorage, false>(scaled, &rounded);
    AccumulateIntRows<kStorage, kRows, false, kFetch>(step, rounded, 0, padded_dim, acc);
    return;
  }
  RoundIntWeights<kStorage, true>(scaled, &rounded);
  constexpr uint32_t kAtOnce = kRows < 2 ? kRows : 2;  // twice the sums per row
  AccumulateIntRows<kStorage, kAtOnce, true, kFetch>(step, rounded, 0, padded_dim, acc);
  for (uint32_t row = kAtOnce; row < kRows; row += kAtOnce) {
    AccumulateIntRows<kStorage, kAtOnce, true, Fetch::kNothing>(step, rounded, row, padded_dim, acc + row * padded_dim);
  }
}

// Adds the values for as many of the rows from `row` on as one block takes; returns how many.
template <KvStorage kStorage, Fetch kFetch>
inline uint32_t AccumulateIntNext(const KernelRows& rows, const KernelStep& step, const StepScales& scales,
                                  uint32_t row, const float* weights, const float* weight_sum, float* acc) {
  const uint32_t dims = rows.padded_dim;
  const uint32_t rest = rows.num_rows - row;
  weights += row * kKvTileTokens;
  weight_sum += row * kWeightSumLanes;
  acc += row * dims;
  if (rest >= 4) {
    AccumulateIntBlock<kStorage, 4, kFetch>(step, scales, weights, weight_sum, dims, acc);
    return 4;
  }
  if (rest >= 2) {
    AccumulateIntBlock<kStorage, 2, kFetch>(step, scales, weights, weight_sum, dims, acc);
    return 2;
  }
  AccumulateIntBlock<kStorage, 1, kFetch>(step, scales, weights, weight_sum, dims, acc);
  return 1;
}

template <KvStorage kStorage>
void AccumulateInt(const KernelRows& rows, const KernelStep& step, float* weights, float* weight_sum, float* acc) {
  const Fetch fetch = FetchOf(step, step.next_v, rows.layout->v_subgroup_bytes);
  StepScales scales;
  __m512 largest = _mm512_setzero_ps();
  for (uint32_t slot = 0; slot < kKvTileSubgroups; ++slot) {
    scales.of_slot[slot] =
        slot < step.num_slots ? SlotScales(step.v_params[slot], step.subgroup[slot]) : _mm512_setzero_ps();
    largest = _mm512_max_ps(largest, scales.of_slot[slot]);
  }
  scales.largest = _mm512_reduce_max_ps(largest);
  uint32_t row = 0;
  switch (fetch) {
    case Fetch::kRun:
      row = AccumulateIntNext<kStorage, Fetch::kRun>(rows, step, scales, 0, weights, weight_sum, acc);
      break;
    case Fetch::kPieces:
      row = AccumulateIntNext<kStorage, Fetch::kPieces>(rows, step, scales, 0, weights, weight_sum, acc);
      break;
    case Fetch::kNothing:
      break;
  }
  while (row < rows.num_rows) {
    row += AccumulateIntNext<kStorage, Fetch::kNothing>(rows, step, scales, row, weights, weight_sum, acc);
  }
}

inline void RotateIntRows(const KernelRows& rows, float* acc) {
  for (uint32_t row = 0; row < rows.num_rows; ++row) {
    RotateRow(acc + row * rows.padded_dim, rows.layout->head_dim);
  }
}

template <KvStorage kStorage>
constexpr VPrimitive kIntDotV = {&AccumulateInt<kStorage>, /*exact_weights=*/true, &RotateIntRows,
                                 kStorage == KvStorage::kInt8 ? &EarlyBytes : nullptr};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
