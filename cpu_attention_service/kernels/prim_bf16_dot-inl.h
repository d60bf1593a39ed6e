// Primitives of bf16 with vdpbf16ps (AVX512-BF16). A lane of the stored layout is a pair of dims (K) or of tokens (V), which
// is what the instruction multiplies. Included after vec_avx512.h.
//
// q is split into two bf16 parts, hi + lo, which hold 16 of its 24 bits: a relative error of at most 2^-17 per element. If q
// came from bf16, all of lo is zero and its pass is left out. Weights are rounded to bf16; their sum as rounded normalises.
#pragma once

#include <immintrin.h>
#include <stddef.h>

#include "cpu_attention_service/kernels/kernel_step.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

inline __m512bh AsBf16(__m512i bits) { return reinterpret_cast<__m512bh>(bits); }
inline __m512bh LoadPairs(const void* from) { return AsBf16(_mm512_loadu_si512(from)); }
inline __m512bh BroadcastPair(uint32_t pair) {
  return AsBf16(_mm512_set1_epi32(static_cast<int>(pair)));
}

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
// From the bits of all lo together.
inline uint32_t NumBf16Parts(__m256i any_lo) {
  const __m256i magnitude = _mm256_and_si256(any_lo, _mm256_set1_epi16(0x7fff));
  return _mm256_testz_si256(magnitude, magnitude) != 0 ? 1 : 2;
}

inline void PrepareBf16Q(const KernelRows& rows, const float* q, void* prepared) {
  const uint32_t num_pairs = rows.padded_dim / 2;
  uint32_t* hi = reinterpret_cast<uint32_t*>(static_cast<unsigned char*>(prepared) + sizeof(Bf16Q));
  uint32_t* lo = hi + num_pairs * rows.num_rows;
  const __m256i to_pairs = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                              _mm256_set1_epi32(static_cast<int>(rows.num_rows)));
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

// What to prefetch while a slot is read, a line for a line. One run of memory is fetched front to back. Slots of a piece
// list that lie in several places are fetched two by two in turn, so that two streams are under way: 0.64 of the read
// ceiling for blocks of 32 tokens instead of 0.55, but 0.63 instead of 0.76 for blocks of 64 (AMD Zen 5).
struct NoLines {
  void Prefetch(uint32_t line) const {}
};
struct LinesOfOneStream {
  const unsigned char* first;
  void Prefetch(uint32_t line) const { PrefetchCodeLine(first + line * 64); }
};
struct LinesOfTwoStreams {
  const unsigned char* even;  // of the slot's even lines
  ptrdiff_t odd_distance;     // from there to the odd line after it
  void Prefetch(uint32_t line) const {
    PrefetchCodeLine(even + (line >> 1) * 64 + (line & 1) * odd_distance);
  }
};

inline bool IsOneStream(const unsigned char* const* next, uint32_t slot_bytes) {
  constexpr uint32_t kHalf = kKvTileSubgroups / 2;
  return next[kHalf] == next[0] + kHalf * slot_bytes;
}
inline LinesOfTwoStreams TwoStreams(const unsigned char* const* next, uint32_t slot,
                                    uint32_t slot_bytes) {
  constexpr uint32_t kHalf = kKvTileSubgroups / 2;
  const unsigned char* even = next[slot / 2] + slot % 2 * (slot_bytes / 2);
  return {even, next[kHalf + slot / 2] - next[slot / 2]};
}

// Scores of kRows rows for one slot, both parts of q in one pass: a second pass over K would leave the memory idle.
// kPhases accumulators per row hide the latency of the dot product. K is read front to back: four slots at once would
// share the broadcasts of q, but four streams of 4 KiB reach 0.65 of the read ceiling where one reaches 0.85.
template <uint32_t kRows, uint32_t kPhases, uint32_t kParts, typename Lines>
inline void ScoreBf16Slot(const KernelRows& rows, const uint32_t* q, const unsigned char* k,
                          const Lines& next, float* scores) {
  const uint32_t num_pairs = rows.padded_dim / 2;
  const uint32_t lo = num_pairs * rows.num_rows;
  __m512 sums[kPhases][kRows];
#pragma GCC unroll 16
  for (uint32_t i = 0; i < kPhases; ++i) {
#pragma GCC unroll 16
    for (uint32_t row = 0; row < kRows; ++row) sums[i][row] = _mm512_setzero_ps();
  }
#pragma GCC unroll 1
  for (uint32_t pair = 0; pair < num_pairs; pair += kPhases) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kPhases; ++i, q += rows.num_rows) {
      next.Prefetch(pair + i);
      const __m512bh k_pair = LoadPairs(k + (pair + i) * 64);
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) {
        sums[i][row] = _mm512_dpbf16_ps(sums[i][row], k_pair, BroadcastPair(q[row]));
      }
      if constexpr (kParts == 2) {
#pragma GCC unroll 16
        for (uint32_t row = 0; row < kRows; ++row) {
          sums[i][row] = _mm512_dpbf16_ps(sums[i][row], k_pair, BroadcastPair(q[lo + row]));
        }
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
    __m512 sum = sums[0][row];
#pragma GCC unroll 16
    for (uint32_t i = 1; i < kPhases; ++i) sum = _mm512_add_ps(sum, sums[i][row]);
    _mm512_storeu_ps(scores + row * kKvTileTokens, sum);
  }
}

// The next of `num_rows` rows, as many as one block takes; returns how many.
template <uint32_t kParts, typename Lines>
inline uint32_t ScoreBf16Block(const KernelRows& rows, uint32_t num_rows, const uint32_t* q,
                               const unsigned char* k, const Lines& next, float* scores) {
  if (num_rows >= 8) {
    ScoreBf16Slot<8, 2, kParts>(rows, q, k, next, scores);
    return 8;
  }
  if (num_rows >= 4) {
    ScoreBf16Slot<4, 4, kParts>(rows, q, k, next, scores);
    return 4;
  }
  if (num_rows >= 2) {
    ScoreBf16Slot<2, 8, kParts>(rows, q, k, next, scores);
    return 2;
  }
  ScoreBf16Slot<1, 8, kParts>(rows, q, k, next, scores);
  return 1;
}

template <uint32_t kParts>
inline void ScoreBf16Parts(const KernelRows& rows, const uint32_t* q, const KernelStep& step,
                           float* scores) {
  const uint32_t slot_bytes = rows.layout->k_subgroup_bytes;
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    float* to = scores + slot * kKvSubgroupTokens;
    const unsigned char* k = step.k[slot];
    uint32_t row = 0;
    if (step.prefetch && IsOneStream(step.next_k, slot_bytes)) {
      const LinesOfOneStream next = {step.next_k[slot]};
      row = ScoreBf16Block<kParts>(rows, rows.num_rows, q, k, next, to);
    } else if (step.prefetch) {
      const LinesOfTwoStreams next = TwoStreams(step.next_k, slot, slot_bytes);
      row = ScoreBf16Block<kParts>(rows, rows.num_rows, q, k, next, to);
    }
    while (row < rows.num_rows) {
      row += ScoreBf16Block<kParts>(rows, rows.num_rows - row, q + row, k, NoLines(),
                                    to + row * kKvTileTokens);
    }
  }
}

inline void ScoreBf16Dot(const KernelRows& rows, const void* prepared, const KernelStep& step,
                         float* scores) {
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

inline void RoundWeights(const KernelRows& rows, uint32_t num_slots, const float* weights,
                         float* weight_sum, Bf16Weights* rounded) {
  const __m512bh ones = BroadcastPair(0x3f803f80);
  for (uint32_t row = 0; row < rows.num_rows; ++row) {
    const float* from = weights + row * kKvTileTokens;
    float* sum_at = weight_sum + row * kWeightSumLanes;
    __m512 sum = _mm512_loadu_ps(sum_at);
    for (uint32_t slot = 0; slot < num_slots; slot += 2) {
      const __m512 low = _mm512_loadu_ps(from + slot * kKvSubgroupTokens);
      const __m512 high = slot + 1 < num_slots
                              ? _mm512_loadu_ps(from + (slot + 1) * kKvSubgroupTokens)
                              : _mm512_setzero_ps();
      const __m512bh pairs = _mm512_cvtne2ps_pbh(high, low);
      sum = _mm512_dpbf16_ps(sum, pairs, ones);
      _mm512_store_si512(rounded->pairs[row] + slot * kKvSubgroupTokens / 2,
                         reinterpret_cast<__m512i>(pairs));
    }
    _mm512_storeu_ps(sum_at, sum);
  }
}

// 16 * kVecs dims of one chunk of a slot, for kRows rows. `pairs` are of the slot's first token and the block's first row.
template <uint32_t kRows, uint32_t kVecs, typename Lines>
inline void AccumulateBf16Dims(const uint32_t* pairs, uint32_t padded_dim, uint32_t chunk_dims,
                               const unsigned char* v, const Lines& next, uint32_t first_line,
                               float* acc) {
  __m512 sums[kRows][kVecs];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      sums[row][i] = _mm512_loadu_ps(acc + row * padded_dim + i * 16);
    }
  }
  const uint32_t pair_bytes = chunk_dims * 4;
#pragma GCC unroll 1
  for (uint32_t pair = 0; pair < kKvSubgroupTokens / 2; ++pair) {
    __m512bh values[kVecs];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      next.Prefetch(first_line + pair * (chunk_dims / 16) + i);
      values[i] = LoadPairs(v + pair * pair_bytes + i * 64);
    }
#pragma GCC unroll 16
    for (uint32_t row = 0; row < kRows; ++row) {
      const __m512bh weight = BroadcastPair(pairs[row * (kKvTileTokens / 2) + pair]);
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kVecs; ++i) {
        sums[row][i] = _mm512_dpbf16_ps(sums[row][i], values[i], weight);
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVecs; ++i) {
      _mm512_storeu_ps(acc + row * padded_dim + i * 16, sums[row][i]);
    }
  }
}

// All dims of a slot for kRows rows, chunk by chunk; 16 sums in registers.
template <uint32_t kRows, typename Lines>
inline void AccumulateBf16Slot(const uint32_t* pairs, uint32_t padded_dim, const unsigned char* v,
                               const Lines& next, float* acc) {
  constexpr uint32_t kVecs = kRows == 8 ? 2 : 4;
  uint32_t first_line = 0;
  for (uint32_t chunk = 0; chunk < padded_dim; chunk += kKvChunkDims) {
    const uint32_t rest = padded_dim - chunk;
    const uint32_t dims = rest < kKvChunkDims ? rest : kKvChunkDims;
    uint32_t dim = 0;
    for (; dim + kVecs * 16 <= dims; dim += kVecs * 16) {
      AccumulateBf16Dims<kRows, kVecs>(pairs, padded_dim, dims, v + dim * 4, next,
                                       first_line + dim / 16, acc + chunk + dim);
    }
    for (; dim < dims; dim += 16) {
      AccumulateBf16Dims<kRows, 1>(pairs, padded_dim, dims, v + dim * 4, next,
                                   first_line + dim / 16, acc + chunk + dim);
    }
    v += dims * kKvSubgroupTokens * 2;
    first_line += dims * kKvSubgroupTokens * 2 / 64;
  }
}

template <typename Lines>
inline uint32_t AccumulateBf16Block(uint32_t num_rows, const uint32_t* pairs, uint32_t padded_dim,
                                    const unsigned char* v, const Lines& next, float* acc) {
  if (num_rows >= 8) {
    AccumulateBf16Slot<8>(pairs, padded_dim, v, next, acc);
    return 8;
  }
  if (num_rows >= 4) {
    AccumulateBf16Slot<4>(pairs, padded_dim, v, next, acc);
    return 4;
  }
  if (num_rows >= 2) {
    AccumulateBf16Slot<2>(pairs, padded_dim, v, next, acc);
    return 2;
  }
  AccumulateBf16Slot<1>(pairs, padded_dim, v, next, acc);
  return 1;
}

inline void AccumulateBf16Dot(const KernelRows& rows, const KernelStep& step, float* weights,
                              float* weight_sum, float* acc) {
  Bf16Weights rounded;
  RoundWeights(rows, step.num_slots, weights, weight_sum, &rounded);
  const uint32_t dims = rows.padded_dim;
  const uint32_t slot_bytes = rows.layout->v_subgroup_bytes;
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    const uint32_t* pairs = rounded.pairs[0] + slot * kKvSubgroupTokens / 2;
    uint32_t row = 0;
    if (step.prefetch && IsOneStream(step.next_v, slot_bytes)) {
      const LinesOfOneStream next = {step.next_v[slot]};
      row = AccumulateBf16Block(rows.num_rows, pairs, dims, step.v[slot], next, acc);
    } else if (step.prefetch) {
      const LinesOfTwoStreams next = TwoStreams(step.next_v, slot, slot_bytes);
      row = AccumulateBf16Block(rows.num_rows, pairs, dims, step.v[slot], next, acc);
    }
    while (row < rows.num_rows) {
      row += AccumulateBf16Block(rows.num_rows - row, pairs + row * (kKvTileTokens / 2), dims,
                                 step.v[slot], NoLines(), acc + row * dims);
    }
  }
}

constexpr KPrimitive kBf16DotK = {&PrepareBf16Q, &ScoreBf16Dot};
constexpr VPrimitive kBf16DotV = {&AccumulateBf16Dot, /*exact_weights=*/false};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
