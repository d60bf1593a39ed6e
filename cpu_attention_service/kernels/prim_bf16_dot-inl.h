// Primitives of bf16 with vdpbf16ps (AVX512-BF16). A lane of the stored layout is a pair of dims (K) or of tokens (V),
// which is what the instruction multiplies. Included after vec_avx512.h.
//
// q is split into two bf16 parts, hi + lo, which hold 16 of its 24 bits: a relative error of at most 2^-17 per element.
// If q came from bf16, all of lo is zero and its pass is left out. Weights are rounded to bf16; their sum as rounded
// normalises.
#pragma once

#include <immintrin.h>
#include <stddef.h>

#include "cpu_attention_service/kernels/kernel_step.h"
#include "cpu_attention_service/kernels/lines_ahead-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

inline __m512bh AsBf16(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }
inline __m512bh LoadPairs(const void* from) { return AsBf16(_mm512_loadu_si512(from)); }
inline __m512bh BroadcastPair(uint32_t pair) { return AsBf16(_mm512_set1_epi32(static_cast<int>(pair))); }

// Prepared: a header, then [part][dim pair][row], so that the rows of one pair are neighbours.
struct Bf16Q {
  uint32_t num_parts;
  uint32_t unused[15];
};
static_assert(sizeof(Bf16Q) == 64);

// 16 values as hi + lo. Of Inf and NaN, hi has all.
inline void SplitBf16(__m512 value, __m256i* hi, __m256i* lo) {
  *hi = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value));
  const __m512 hi_value = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(*hi), 16));
  const __m512 rest = _mm512_sub_ps(value, hi_value);
  const __mmask16 is_number = _mm512_cmp_ps_mask(rest, rest, _CMP_ORD_Q);
  *lo = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_mov_ps(is_number, rest)));
}
// Decides by the bits of all lo together.
inline uint32_t NumBf16Parts(__m256i any_lo) {
  const __m256i magnitude = _mm256_and_si256(any_lo, _mm256_set1_epi16(0x7fff));
  return _mm256_testz_si256(magnitude, magnitude) != 0 ? 1 : 2;
}

inline void PrepareBf16Q(const KernelRows& rows, const float* q, void* prepared) {
  const uint32_t num_pairs = rows.padded_dim / 2;
  uint32_t* hi = reinterpret_cast<uint32_t*>(static_cast<unsigned char*>(prepared) + sizeof(Bf16Q));
  uint32_t* lo = hi + num_pairs * rows.num_rows;
  const __m256i to_pairs =
      _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(static_cast<int>(rows.num_rows)));
  __m256i any_lo = _mm256_setzero_si256();
  for (uint32_t row = 0; row < rows.num_rows; ++row) {
    for (uint32_t pair = 0; pair < num_pairs; pair += 8) {
      __m256i hi_bits, lo_bits;
      SplitBf16(_mm512_loadu_ps(q + row * rows.padded_dim + 2 * pair), &hi_bits, &lo_bits);
      _mm256_i32scatter_epi32(hi + pair * rows.num_rows + row, to_pairs, hi_bits, 4);
      _mm256_i32scatter_epi32(lo + pair * rows.num_rows + row, to_pairs, lo_bits, 4);
      any_lo = _mm256_or_si256(any_lo, lo_bits);
    }
  }
  static_cast<Bf16Q*>(prepared)->num_parts = NumBf16Parts(any_lo);
}

// Scores of kRows rows for kSlots slots, both parts of q in one pass: a second pass over K would leave the memory idle.
// There are 16 sums (of one row 8): the dot product takes 6 cycles and two start per cycle (AMD Zen 5), so that 12 must
// be under way. Two slots share what is loaded of q, which with one slot keeps the two load ports as busy as the dot
// products.
template <uint32_t kRows, uint32_t kSlots, uint32_t kPhases, uint32_t kParts, typename Lines>
[[gnu::noinline]] void ScoreBf16Slots(const KernelRows& rows, const uint32_t* q, const unsigned char* const* k,
                                      Lines* ahead, float* scores) {
  const uint32_t num_pairs = rows.padded_dim / 2;
  const uint32_t lo = num_pairs * rows.num_rows;
  Lines lines = *ahead;
  const unsigned char* at[kSlots];
  __m512 sums[kPhases][kSlots][kRows];
#pragma GCC unroll 16
  for (uint32_t s = 0; s < kSlots; ++s) {
    at[s] = k[s];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kPhases; ++i) {
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) sums[i][s][row] = _mm512_setzero_ps();
    }
  }
#pragma GCC unroll 1
  for (uint32_t pair = 0; pair < num_pairs; pair += kPhases) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kPhases; ++i, q += rows.num_rows) {
      __m512bh k_pair[kSlots];
#pragma GCC unroll 16
      for (uint32_t s = 0; s < kSlots; ++s) {
        lines.template Prefetch<1>();
        k_pair[s] = LoadPairs(at[s] + (pair + i) * 64);
      }
#pragma GCC unroll 16
      for (uint32_t part = 0; part < kParts; ++part) {
#pragma GCC unroll 16
        for (uint32_t row = 0; row < kRows; ++row) {
          const __m512bh of_q = BroadcastPair(q[part * lo + row]);
#pragma GCC unroll 16
          for (uint32_t s = 0; s < kSlots; ++s) {
            sums[i][s][row] = _mm512_dpbf16_ps(sums[i][s][row], k_pair[s], of_q);
          }
        }
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t s = 0; s < kSlots; ++s) {
#pragma GCC unroll 16
    for (uint32_t row = 0; row < kRows; ++row) {
      __m512 sum = sums[0][s][row];
#pragma GCC unroll 16
      for (uint32_t i = 1; i < kPhases; ++i) sum = _mm512_add_ps(sum, sums[i][s][row]);
      _mm512_storeu_ps(scores + row * kKvTileTokens + s * kKvSubgroupTokens, sum);
    }
  }
  lines.Count(num_pairs * kSlots);
  *ahead = lines;
}

// kRows rows, all slots. Eight rows of a q in two parts compute longer than the memory takes, and go two slots at a
// time. Otherwise K is read front to back: two streams of 4 KiB reach 0.85 of the read ceiling where one reaches 0.95
// (AMD Zen 5).
template <uint32_t kRows, uint32_t kParts, typename Lines>
inline void ScoreBf16Rows(const KernelRows& rows, const uint32_t* q, const KernelStep& step, Lines ahead,
                          float* scores) {
  uint32_t slot = 0;
  if constexpr (kRows == 8 && kParts == 2) {
    for (; slot + 2 <= step.num_slots; slot += 2) {
      ScoreBf16Slots<kRows, 2, 1, kParts>(rows, q, step.k + slot, &ahead, scores + slot * kKvSubgroupTokens);
    }
  }
  constexpr uint32_t kPhases = kRows == 1 ? 8 : 16 / kRows;
  for (; slot < step.num_slots; ++slot) {
    ScoreBf16Slots<kRows, 1, kPhases, kParts>(rows, q, step.k + slot, &ahead, scores + slot * kKvSubgroupTokens);
  }
}

// The next of `num_rows` rows, as many as one block takes; returns how many.
template <uint32_t kParts, typename Lines>
inline uint32_t ScoreBf16Block(const KernelRows& rows, uint32_t num_rows, const uint32_t* q, const KernelStep& step,
                               const Lines& ahead, float* scores) {
  if (num_rows >= 8) {
    ScoreBf16Rows<8, kParts>(rows, q, step, ahead, scores);
    return 8;
  }
  if (num_rows >= 4) {
    ScoreBf16Rows<4, kParts>(rows, q, step, ahead, scores);
    return 4;
  }
  if (num_rows >= 2) {
    ScoreBf16Rows<2, kParts>(rows, q, step, ahead, scores);
    return 2;
  }
  ScoreBf16Rows<1, kParts>(rows, q, step, ahead, scores);
  return 1;
}

template <uint32_t kParts>
inline void ScoreBf16Parts(const KernelRows& rows, const uint32_t* q, const KernelStep& step, float* scores) {
  uint32_t row = 0;
  if (step.prefetch) {
    row = ScoreBf16Block<kParts>(rows, rows.num_rows, q, step, LinesOf(step.next_k, rows.layout->k_subgroup_bytes),
                                 scores);
  }
  while (row < rows.num_rows) {
    row += ScoreBf16Block<kParts>(rows, rows.num_rows - row, q + row, step, NoLines(), scores + row * kKvTileTokens);
  }
}

inline void ScoreBf16Dot(const KernelRows& rows, const void* prepared, const KernelStep& step, float* scores) {
  const Bf16Q* q = static_cast<const Bf16Q*>(prepared);
  const uint32_t* pairs = reinterpret_cast<const uint32_t*>(q + 1);
  if (q->num_parts == 2) {
    ScoreBf16Parts<2>(rows, pairs, step, scores);
  } else {
    ScoreBf16Parts<1>(rows, pairs, step, scores);
  }
}

// Weights of a step as bf16 pairs of neighbouring tokens.
struct Bf16Weights {
  alignas(64) uint32_t pairs[kMaxKernelRows][kKvTileTokens / 2];
};

inline void RoundWeights(const KernelRows& rows, uint32_t num_slots, const float* weights, float* weight_sum,
                         Bf16Weights* rounded) {
  const __m512bh ones = BroadcastPair(0x3f803f80);
  for (uint32_t row = 0; row < rows.num_rows; ++row) {
    const float* from = weights + row * kKvTileTokens;
    float* sum_at = weight_sum + row * kWeightSumLanes;
    __m512 sum = _mm512_loadu_ps(sum_at);
    for (uint32_t slot = 0; slot < num_slots; slot += 2) {
      const __m512 low = _mm512_loadu_ps(from + slot * kKvSubgroupTokens);
      const __m512 high =
          slot + 1 < num_slots ? _mm512_loadu_ps(from + (slot + 1) * kKvSubgroupTokens) : _mm512_setzero_ps();
      const __m512bh pairs = _mm512_cvtne2ps_pbh(high, low);
      sum = _mm512_dpbf16_ps(sum, pairs, ones);
      _mm512_store_si512(rounded->pairs[row] + slot * kKvSubgroupTokens / 2, reinterpret_cast<__m512i>(pairs));
    }
    _mm512_storeu_ps(sum_at, sum);
  }
}

// 16 * kVecs dims of `num_slots` slots, for kRows rows, with the sums in registers. `v_offset` is where these dims of a
// slot's first pair of tokens lie, `pair_bytes` the distance to the next pair.
template <uint32_t kRows, uint32_t kVecs, typename Lines>
[[gnu::noinline]] void AccumulateBf16Dims(const uint32_t* pairs, const unsigned char* const* slots, uint32_t num_slots,
                                          size_t v_offset, size_t pair_bytes, size_t padded_dim, Lines* ahead,
                                          float* acc) {
  Lines lines = *ahead;
  __m512 sums[kRows][kVecs];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      sums[row][i] = _mm512_loadu_ps(acc + row * padded_dim + i * 16);
    }
  }
#pragma GCC unroll 1
  for (uint32_t slot = 0; slot < num_slots; ++slot) {
    const unsigned char* v = slots[slot] + v_offset;
#pragma GCC unroll 2
    for (uint32_t pair = 0; pair < kKvSubgroupTokens / 2; ++pair, ++pairs, v += pair_bytes) {
      __m512bh values[kVecs];
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kVecs; ++i) {
        lines.template Prefetch<1>();
        values[i] = LoadPairs(v + i * 64);
      }
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) {
        const __m512bh weight = BroadcastPair(pairs[row * (kKvTileTokens / 2)]);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < kVecs; ++i) {
          sums[row][i] = _mm512_dpbf16_ps(sums[row][i], values[i], weight);
        }
      }
    }
    lines.Count(kKvSubgroupTokens / 2 * kVecs);
  }
  *ahead = lines;
  asm("" : "+r"(acc), "+r"(padded_dim));  // else the addresses of the sums are kept, and spilled
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      _mm512_storeu_ps(acc + row * padded_dim + i * 16, sums[row][i]);
    }
  }
}

// All dims of kRows rows, strip by strip; 16 sums in registers. Two slots at a time: with one, sums go to memory and
// back twice as often; four compute less still, but read 16 KiB out of order, which costs as much.
template <uint32_t kRows, typename Lines>
inline void AccumulateBf16Rows(const uint32_t* pairs, const KernelStep& step, uint32_t padded_dim, Lines ahead,
                               float* acc) {
  constexpr uint32_t kSlots = 2;
  constexpr uint32_t kVecs = kRows == 8 ? 2 : 4;
  for (uint32_t slot = 0; slot < step.num_slots; slot += kSlots) {
    const uint32_t num_slots = step.num_slots - slot < kSlots ? step.num_slots - slot : kSlots;
    const uint32_t* of_slots = pairs + slot * kKvSubgroupTokens / 2;
    for (uint32_t strip = 0; strip < padded_dim; strip += kKvStripDims) {
      const uint32_t rest = padded_dim - strip;
      const uint32_t dims = rest < kKvStripDims ? rest : kKvStripDims;
      const uint32_t strip_bytes = strip * kKvSubgroupTokens * 2;
      uint32_t dim = 0;
      for (; dim + kVecs * 16 <= dims; dim += kVecs * 16) {
        AccumulateBf16Dims<kRows, kVecs>(of_slots, step.v + slot, num_slots, strip_bytes + dim * 4, dims * 4,
                                         padded_dim, &ahead, acc + strip + dim);
      }
      for (; dim < dims; dim += 16) {
        AccumulateBf16Dims<kRows, 1>(of_slots, step.v + slot, num_slots, strip_bytes + dim * 4, dims * 4, padded_dim,
                                     &ahead, acc + strip + dim);
      }
    }
  }
}

template <typename Lines>
inline uint32_t AccumulateBf16Block(uint32_t num_rows, const uint32_t* pairs, const KernelStep& step,
                                    uint32_t padded_dim, const Lines& ahead, float* acc) {
  if (num_rows >= 8) {
    AccumulateBf16Rows<8>(pairs, step, padded_dim, ahead, acc);
    return 8;
  }
  if (num_rows >= 4) {
    AccumulateBf16Rows<4>(pairs, step, padded_dim, ahead, acc);
    return 4;
  }
  if (num_rows >= 2) {
    AccumulateBf16Rows<2>(pairs, step, padded_dim, ahead, acc);
    return 2;
  }
  AccumulateBf16Rows<1>(pairs, step, padded_dim, ahead, acc);
  return 1;
}

inline void AccumulateBf16Dot(const KernelRows& rows, const KernelStep& step, float* weights, float* weight_sum,
                              float* acc) {
  Bf16Weights rounded;
  RoundWeights(rows, step.num_slots, weights, weight_sum, &rounded);
  const uint32_t dims = rows.padded_dim;
  uint32_t row = 0;
  if (step.prefetch) {
    row = AccumulateBf16Block(rows.num_rows, rounded.pairs[0], step, dims,
                              LinesOf(step.next_v, rows.layout->v_subgroup_bytes), acc);
  }
  while (row < rows.num_rows) {
    row += AccumulateBf16Block(rows.num_rows - row, rounded.pairs[row], step, dims, NoLines(), acc + row * dims);
  }
}

constexpr KPrimitive kBf16DotK = {&PrepareBf16Q, &ScoreBf16Dot};
constexpr VPrimitive kBf16DotV = {&AccumulateBf16Dot, /*exact_weights=*/false};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
