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
  uint32_t high[4][kKvTileTokens / 4];  // 8 bits: all there is
  uint32_t low[4][kKvTileTokens / 4];
  float scale[4];  // of one unit
  float begin[4];  // int4: -7.5 * sum of the weights, in units
};

// 8 bits of the largest weight lose up to 1/510 of it per token. Against the sum of all weights so far that is nothing in a
// long context, and much where one token of the step outweighs the rest: then the step gets 16 bits. With this ratio the
// errors of a call, which are independent, stay below 1e-3 of the largest |value| (docs/numerics.md).
constexpr float kCoarseRatio = 1.0f / 64;

struct StepScales {
  __m512 of_slot[kKvTileSubgroups];
  float largest;
};

struct ScaledWeights {
  __m512 values[kKvTileSubgroups];
  float largest;  // at least 2^-100; NaN if any is NaN
};

// Weights are not negative, so that their bits have their order, NaN last: the maximum of f32 would lose a NaN.
inline ScaledWeights ScaleWeights(const __m512* scales, uint32_t num_slots, const float* weights) {
  ScaledWeights scaled;
  __m512i largest = _mm512_castps_si512(_mm512_set1_ps(0x1p-100f));
  for (uint32_t slot = 0; slot < num_slots; ++slot) {
    scaled.values[slot] =
        _mm512_mul_ps(scales[slot], _mm512_loadu_ps(weights + slot * kKvSubgroupTokens));
    largest = _mm512_max_epu32(largest, _mm512_castps_si512(scaled.values[slot]));
  }
  const uint32_t bits = _mm512_reduce_max_epu32(largest);
  __builtin_memcpy(&scaled.largest, &bits, sizeof(bits));
  return scaled;
}

inline bool NeedsSixteenBits(float largest, float largest_scale, const float* weight_sum) {
  const float sum = _mm512_reduce_add_ps(_mm512_loadu_ps(weight_sum));
  return !(largest <= kCoarseRatio * sum * largest_scale);
}

template <bool kFine>
inline void RoundIntWeights(const ScaledWeights& scaled, uint32_t num_slots, uint32_t row,
                            IntWeights* rounded) {
  constexpr float kLevels = kFine ? kFineLevels : kCoarseLevels;
  const __m512 inverse = _mm512_set1_ps(kLevels / scaled.largest);
  __m512i sum = _mm512_setzero_si512();
  for (uint32_t slot = 0; slot < num_slots; ++slot) {
    const __m512i codes = _mm512_cvtps_epi32(_mm512_mul_ps(scaled.values[slot], inverse));
    sum = _mm512_add_epi32(sum, codes);
    const __m512i high = kFine ? _mm512_srli_epi32(codes, 8) : codes;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(rounded->high[row] + slot * 4),
                     _mm512_cvtepi32_epi8(high));
    if (kFine) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(rounded->low[row] + slot * 4),
                       _mm512_cvtepi32_epi8(codes));
    }
  }
  rounded->scale[row] = scaled.largest / kLevels;
  rounded->begin[row] = -7.5f * _mm512_reduce_add_ps(_mm512_cvtepi32_ps(sum));
}

// 16 * kVecs dims from `dim` of the chunk that begins at `chunk`, for kRows rows, over all slots.
template <KvStorage kStorage, uint32_t kRows, uint32_t kVecs, bool kFine, bool kPrefetch>
[[gnu::noinline]] void AccumulateIntDims(const KernelStep& step, uint32_t chunk_begin,
                                         uint32_t chunk_dims, const IntWeights& weights,
                                         uint32_t first_row, uint32_t padded_dim, float* acc) {
  constexpr uint32_t kHalves = kStorage == KvStorage::kInt4 ? 2 : 1;
  constexpr uint32_t kLines = kKvSubgroupTokens / (4 * kHalves);  // of a slot
  constexpr uint32_t kParts = kFine ? 2 : 1;
  __m512i sums[kParts][kRows][kVecs];
#pragma GCC unroll 16
  for (uint32_t part = 0; part < kParts; ++part) {
#pragma GCC unroll 16
    for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kVecs; ++i) sums[part][row][i] = _mm512_setzero_si512();
    }
  }
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    const unsigned char* v = step.v[slot] + chunk_begin;
    const unsigned char* next_v = kPrefetch ? step.next_v[slot] + chunk_begin : nullptr;
#pragma GCC unroll 1
    for (uint32_t line = 0; line < kLines; ++line, v += chunk_dims * 4) {
      __m512i codes[kVecs];
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kVecs; ++i) {
        if (kPrefetch) PrefetchCodeLine(next_v + line * chunk_dims * 4 + i * 64);
        codes[i] = _mm512_loadu_si512(v + i * 64);
      }
#pragma GCC unroll 16
      for (uint32_t half = 0; half < kHalves; ++half) {
        const uint32_t quad = slot * 4 + line * kHalves + half;
        __m512i values[kVecs];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < kVecs; ++i) {
          values[i] = kHalves == 1 ? codes[i]
                      : half == 0  ? LowNibbles(codes[i])
                                   : HighNibbles(codes[i]);
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
  }
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
    const __m512 scale = _mm512_set1_ps(weights.scale[first_row + row]);
    const __m512 begin = _mm512_set1_ps(weights.begin[first_row + row]);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      __m512i sum = sums[0][row][i];
      if constexpr (kFine) sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), sums[1][row][i]);
      __m512 value = _mm512_cvtepi32_ps(sum);
      if (kStorage == KvStorage::kInt4) value = _mm512_add_ps(value, begin);
      float* at = acc + row * padded_dim + i * 16;
      _mm512_storeu_ps(at, _mm512_fmadd_ps(value, scale, _mm512_loadu_ps(at)));
    }
  }
}

// All dims of kRows rows.
template <KvStorage kStorage, uint32_t kRows, bool kFine, bool kPrefetch>
inline void AccumulateIntRows(const KernelStep& step, const IntWeights& weights, uint32_t first_row,
                              uint32_t padded_dim, float* acc) {
  constexpr uint32_t kBytesPerDim = kKvSubgroupTokens * (kStorage == KvStorage::kInt4 ? 4 : 8) / 8;
  uint32_t dim = 0;
  for (; dim + kKvChunkDims <= padded_dim; dim += kKvChunkDims) {
    AccumulateIntDims<kStorage, kRows, 4, kFine, kPrefetch>(
        step, dim * kBytesPerDim, kKvChunkDims, weights, first_row, padded_dim, acc + dim);
  }
  const uint32_t rest = padded_dim - dim;
  for (uint32_t i = 0; i < rest; i += 16) {
    AccumulateIntDims<kStorage, kRows, 1, kFine, kPrefetch>(
        step, dim * kBytesPerDim + i * 4, rest, weights, first_row, padded_dim, acc + dim + i);
  }
}

template <KvStorage kStorage, uint32_t kRows, bool kPrefetch>
inline void AccumulateIntBlock(const KernelStep& step, const StepScales& scales,
                               const float* weights, const float* weight_sum, uint32_t padded_dim,
                               float* acc) {
  ScaledWeights scaled[kRows];
  bool fine = false;
  for (uint32_t row = 0; row < kRows; ++row) {
    scaled[row] = ScaleWeights(scales.of_slot, step.num_slots, weights + row * kKvTileTokens);
    fine |=
        NeedsSixteenBits(scaled[row].largest, scales.largest, weight_sum + row * kWeightSumLanes);
  }
  IntWeights rounded;
  if (!fine) {
    for (uint32_t row = 0; row < kRows; ++row) {
      RoundIntWeights<false>(scaled[row], step.num_slots, row, &rounded);
    }
    AccumulateIntRows<kStorage, kRows, false, kPrefetch>(step, rounded, 0, padded_dim, acc);
    return;
  }
  for (uint32_t row = 0; row < kRows; ++row) {
    RoundIntWeights<true>(scaled[row], step.num_slots, row, &rounded);
  }
  constexpr uint32_t kAtOnce = kRows < 2 ? kRows : 2;  // twice the sums per row
  AccumulateIntRows<kStorage, kAtOnce, true, kPrefetch>(step, rounded, 0, padded_dim, acc);
  for (uint32_t row = kAtOnce; row < kRows; row += kAtOnce) {
    AccumulateIntRows<kStorage, kAtOnce, true, false>(step, rounded, row, padded_dim,
                                                      acc + row * padded_dim);
  }
}

// As many of the rows from `row` on as one block takes; returns how many.
template <KvStorage kStorage, bool kPrefetch>
inline uint32_t AccumulateIntNext(const KernelRows& rows, const KernelStep& step,
                                  const StepScales& scales, uint32_t row, const float* weights,
                                  const float* weight_sum, float* acc) {
  const uint32_t dims = rows.padded_dim;
  const uint32_t rest = rows.num_rows - row;
  weights += row * kKvTileTokens;
  weight_sum += row * kWeightSumLanes;
  acc += row * dims;
  if (rest >= 4) {
    AccumulateIntBlock<kStorage, 4, kPrefetch>(step, scales, weights, weight_sum, dims, acc);
    return 4;
  }
  if (rest >= 2) {
    AccumulateIntBlock<kStorage, 2, kPrefetch>(step, scales, weights, weight_sum, dims, acc);
    return 2;
  }
  AccumulateIntBlock<kStorage, 1, kPrefetch>(step, scales, weights, weight_sum, dims, acc);
  return 1;
}

template <KvStorage kStorage>
void AccumulateInt(const KernelRows& rows, const KernelStep& step, float* weights,
                   float* weight_sum, float* acc) {
  StepScales scales;
  __m512 largest = _mm512_setzero_ps();
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    scales.of_slot[slot] = SlotScales(step.v_params[slot], step.subgroup[slot]);
    largest = _mm512_max_ps(largest, scales.of_slot[slot]);
  }
  scales.largest = _mm512_reduce_max_ps(largest);
  uint32_t row = 0;
  if (step.prefetch) {
    row = AccumulateIntNext<kStorage, true>(rows, step, scales, 0, weights, weight_sum, acc);
  }
  while (row < rows.num_rows) {
    row += AccumulateIntNext<kStorage, false>(rows, step, scales, row, weights, weight_sum, acc);
  }
}

inline void RotateIntRows(const KernelRows& rows, float* acc) {
  for (uint32_t row = 0; row < rows.num_rows; ++row) {
    RotateRow(acc + row * rows.padded_dim, rows.layout->head_dim);
  }
}

template <KvStorage kStorage>
constexpr VPrimitive kIntDotV = {&AccumulateInt<kStorage>, /*exact_weights=*/true, &RotateIntRows};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
