// Primitives of bf16 with vdpbf16ps (AVX512-BF16). A lane of the stored layout is a pair of dims (K) or of tokens (V), which
// is what the instruction multiplies. Included after vec_avx512.h.
//
// q is split into two bf16 parts, hi + lo, which hold 16 of its 24 bits: a relative error of at most 2^-17 per element. If q
// came from bf16, all of lo is zero and its pass is left out. Weights are rounded to bf16; their sum as rounded normalises.
#pragma once

#include <immintrin.h>

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

inline void PrepareBf16Q(const KernelRows& rows, const float* q, void* prepared) {
  const uint32_t num_pairs = rows.padded_dim / 2;
  uint32_t* hi = reinterpret_cast<uint32_t*>(static_cast<unsigned char*>(prepared) + sizeof(Bf16Q));
  uint32_t* lo = hi + num_pairs * rows.num_rows;
  const __m256i to_pairs = _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                              _mm256_set1_epi32(static_cast<int>(rows.num_rows)));
  __m256i any_lo = _mm256_setzero_si256();
  for (uint32_t row = 0; row < rows.num_rows; ++row) {
    for (uint32_t pair = 0; pair < num_pairs; pair += 8) {
      const __m512 value = _mm512_loadu_ps(q + row * rows.padded_dim + 2 * pair);
      const __m256i hi_bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value));
      const __m512 hi_value =
          _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(hi_bits), 16));
      const __m512 rest = _mm512_sub_ps(value, hi_value);
      const __mmask16 is_number = _mm512_cmp_ps_mask(rest, rest, _CMP_ORD_Q);  // else it is in hi
      const __m256i lo_bits =
          reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_mov_ps(is_number, rest)));
      _mm256_i32scatter_epi32(hi + pair * rows.num_rows + row, to_pairs, hi_bits, 4);
      _mm256_i32scatter_epi32(lo + pair * rows.num_rows + row, to_pairs, lo_bits, 4);
      any_lo = _mm256_or_si256(any_lo, lo_bits);
    }
  }
  const __m256i magnitude = _mm256_and_si256(any_lo, _mm256_set1_epi16(0x7fff));
  static_cast<Bf16Q*>(prepared)->num_parts = _mm256_testz_si256(magnitude, magnitude) != 0 ? 1 : 2;
}

// Scores of kRows rows for kSlots slots. kPhases accumulators per row and slot hide the latency of the dot product. A
// broadcast of q serves kSlots dot products and a load of K kRows of them.
template <uint32_t kRows, uint32_t kSlots, uint32_t kPhases, bool kPrefetch>
inline void ScoreBf16Slots(const KernelRows& rows, uint32_t num_parts, const uint32_t* q,
                           const unsigned char* const* k, const unsigned char* const* next_k,
                           float* scores) {
  const uint32_t num_pairs = rows.padded_dim / 2;
  __m512 sums[kPhases][kRows][kSlots];
#pragma GCC unroll 16
  for (uint32_t i = 0; i < kPhases; ++i) {
#pragma GCC unroll 16
    for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
      for (uint32_t slot = 0; slot < kSlots; ++slot) sums[i][row][slot] = _mm512_setzero_ps();
    }
  }
  for (uint32_t part = 0; part < num_parts; ++part) {
    const uint32_t* q_pair = q + part * num_pairs * rows.num_rows;
    for (uint32_t pair = 0; pair < num_pairs; pair += kPhases) {
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kPhases; ++i) {
        __m512bh k_pairs[kSlots];
#pragma GCC unroll 16
        for (uint32_t slot = 0; slot < kSlots; ++slot) {
          if (kPrefetch && part == 0) PrefetchCodeLine(next_k[slot] + (pair + i) * 64);
          k_pairs[slot] = LoadPairs(k[slot] + (pair + i) * 64);
        }
#pragma GCC unroll 16
        for (uint32_t row = 0; row < kRows; ++row) {
          const __m512bh q_pairs = BroadcastPair(q_pair[row]);
#pragma GCC unroll 16
          for (uint32_t slot = 0; slot < kSlots; ++slot) {
            sums[i][row][slot] = _mm512_dpbf16_ps(sums[i][row][slot], k_pairs[slot], q_pairs);
          }
        }
        q_pair += rows.num_rows;
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      __m512 sum = sums[0][row][slot];
#pragma GCC unroll 16
      for (uint32_t i = 1; i < kPhases; ++i) sum = _mm512_add_ps(sum, sums[i][row][slot]);
      _mm512_storeu_ps(scores + row * kKvTileTokens + slot * kKvSubgroupTokens, sum);
    }
  }
}

// The next of `num_rows` rows, as many as one block takes, for kSlots slots; returns how many rows.
template <uint32_t kSlots, bool kPrefetch>
inline uint32_t ScoreBf16Block(const KernelRows& rows, uint32_t num_rows, uint32_t num_parts,
                               const uint32_t* q, const unsigned char* const* k,
                               const unsigned char* const* next_k, float* scores) {
  if (num_rows >= 4) {
    ScoreBf16Slots<4, kSlots, 4 / kSlots, kPrefetch>(rows, num_parts, q, k, next_k, scores);
    return 4;
  }
  if (num_rows >= 2) {
    ScoreBf16Slots<2, kSlots, 8 / kSlots, kPrefetch>(rows, num_parts, q, k, next_k, scores);
    return 2;
  }
  ScoreBf16Slots<1, kSlots, 8 / kSlots, kPrefetch>(rows, num_parts, q, k, next_k, scores);
  return 1;
}

template <uint32_t kSlots>
inline void ScoreBf16Rows(const KernelRows& rows, const void* prepared, const KernelStep& step,
                          uint32_t slot, float* scores) {
  const uint32_t num_parts = static_cast<const Bf16Q*>(prepared)->num_parts;
  const uint32_t* q = reinterpret_cast<const uint32_t*>(
      static_cast<const unsigned char*>(prepared) + sizeof(Bf16Q));
  float* to = scores + slot * kKvSubgroupTokens;
  uint32_t row = 0;
  if (step.prefetch) {
    row = ScoreBf16Block<kSlots, true>(rows, rows.num_rows, num_parts, q, step.k + slot,
                                       step.next_k + slot, to);
  }
  while (row < rows.num_rows) {
    row += ScoreBf16Block<kSlots, false>(rows, rows.num_rows - row, num_parts, q + row,
                                         step.k + slot, nullptr, to + row * kKvTileTokens);
  }
}

// Slot by slot, so that K is read front to back: with four slots at once, a broadcast of q would serve four dot products,
// but four streams of 4 KiB reach 0.65 of the read ceiling where one reaches 0.85.
inline void ScoreBf16Dot(const KernelRows& rows, const void* prepared, const KernelStep& step,
                         float* scores) {
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    ScoreBf16Rows<1>(rows, prepared, step, slot, scores);
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
template <uint32_t kRows, uint32_t kVecs, bool kPrefetch>
inline void AccumulateBf16Dims(const uint32_t* pairs, uint32_t padded_dim, uint32_t chunk_dims,
                               const unsigned char* v, const unsigned char* next_v, float* acc) {
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
      if (kPrefetch) PrefetchCodeLine(next_v + pair * pair_bytes + i * 64);
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

// All dims of a slot for kRows rows, front to back.
template <uint32_t kRows, bool kPrefetch>
inline void AccumulateBf16Slot(const uint32_t* pairs, uint32_t padded_dim, const unsigned char* v,
                               const unsigned char* next_v, float* acc) {
  uint32_t dim = 0;
  for (; dim + kKvChunkDims <= padded_dim; dim += kKvChunkDims) {
    AccumulateBf16Dims<kRows, 4, kPrefetch>(pairs, padded_dim, kKvChunkDims, v, next_v, acc + dim);
    v += kKvChunkDims * kKvSubgroupTokens * 2;
    if (kPrefetch) next_v += kKvChunkDims * kKvSubgroupTokens * 2;
  }
  const uint32_t rest = padded_dim - dim;
  for (uint32_t i = 0; i < rest; i += 16) {
    AccumulateBf16Dims<kRows, 1, kPrefetch>(pairs, padded_dim, rest, v + i * 4,
                                            kPrefetch ? next_v + i * 4 : nullptr, acc + dim + i);
  }
}

template <bool kPrefetch>
inline uint32_t AccumulateBf16Block(uint32_t num_rows, const uint32_t* pairs, uint32_t padded_dim,
                                    const unsigned char* v, const unsigned char* next_v,
                                    float* acc) {
  if (num_rows >= 4) {
    AccumulateBf16Slot<4, kPrefetch>(pairs, padded_dim, v, next_v, acc);
    return 4;
  }
  if (num_rows >= 2) {
    AccumulateBf16Slot<2, kPrefetch>(pairs, padded_dim, v, next_v, acc);
    return 2;
  }
  AccumulateBf16Slot<1, kPrefetch>(pairs, padded_dim, v, next_v, acc);
  return 1;
}

inline void AccumulateBf16Dot(const KernelRows& rows, const KernelStep& step, float* weights,
                              float* weight_sum, float* acc) {
  Bf16Weights rounded;
  RoundWeights(rows, step.num_slots, weights, weight_sum, &rounded);
  const uint32_t dims = rows.padded_dim;
  for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
    const uint32_t* pairs = rounded.pairs[0] + slot * kKvSubgroupTokens / 2;
    uint32_t row = 0;
    if (step.prefetch) {
      row = AccumulateBf16Block<true>(rows.num_rows, pairs, dims, step.v[slot], step.next_v[slot],
                                      acc);
    }
    while (row < rows.num_rows) {
      row += AccumulateBf16Block<false>(rows.num_rows - row, pairs + row * (kKvTileTokens / 2),
                                        dims, step.v[slot], nullptr, acc + row * dims);
    }
  }
}

constexpr KPrimitive kBf16DotK = {&PrepareBf16Q, &ScoreBf16Dot};
constexpr VPrimitive kBf16DotV = {&AccumulateBf16Dot, /*exact_weights=*/false};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
