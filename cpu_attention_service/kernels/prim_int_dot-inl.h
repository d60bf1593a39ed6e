// Scores of int8 and int4 with vpdpbusd (AVX512-VNNI): four products of an unsigned and a signed byte, summed into a
// 32-bit lane. Included after vec_avx512.h; prim_int_values-inl.h has the values.
//
// q is rotated (attention/kv/kv_quantise.h) and rounded to a part of its largest |element|: for int8 to 16 bits, a high
// and a low byte, each with a sum of its own; for int4, whose K is off by some 30 times as much, to 8 bits. Codes of K
// are the unsigned side; their zero (128 or 7.5) is taken off in the sums.
#pragma once

#include <immintrin.h>

#include "cpu_attention_service/kernels/kernel_step.h"
#include "cpu_attention_service/kernels/lines_ahead-inl.h"
#include "cpu_attention_service/kernels/rotate_avx512-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// Bytes of an element of q.
template <KvStorage kStorage>
constexpr uint32_t kQueryParts = kStorage == KvStorage::kInt8 ? 2 : 1;
// With 16 bits it is 127 * 256, so that the high byte stays in [-127, 127].
template <KvStorage kStorage>
constexpr float kQueryLevels = kQueryParts<kStorage> == 2 ? 32512.0f : 127.0f;

// This is not the intrinsic: GCC 12 copies and spills its accumulators, which costs up to half of the speed.
inline __m512i DotU8S8(__m512i sum, __m512i u8, __m512i s8) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u8), "v"(s8));
  return sum;
}

inline __m512i BroadcastQuad(uint32_t quad) { return _mm512_set1_epi32(static_cast<int>(quad)); }
inline __m512i LowNibbles(__m512i codes) { return _mm512_and_si512(codes, _mm512_set1_epi8(15)); }
inline __m512i HighNibbles(__m512i codes) { return LowNibbles(_mm512_srli_epi16(codes, 4)); }

// Reads the scales of the 16 tokens of a slot, which are bf16.
inline __m512 SlotScales(const unsigned char* params, uint32_t subgroup) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(params + subgroup * 32));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// Prepared: a header per row, then the bytes of q as [part, high first][quad of dims][row].
struct IntQRow {
  float scale;    // of one unit of the sum; for int4 of half a unit
  int32_t begin;  // -zero * sum of q: int8, where the low sum begins; int4, what the doubled sum gets
  uint32_t unused[14];
};
static_assert(sizeof(IntQRow) == kPreparedHeaderBytes);

inline const uint32_t* QuadsOf(const KernelRows& rows, const void* prepared) {
  return reinterpret_cast<const uint32_t*>(static_cast<const IntQRow*>(prepared) + rows.num_rows);
}

// Four quads of codes of one row.
inline void StoreQuads(__m512i codes, uint32_t num_rows, uint32_t* quads) {
  alignas(16) uint32_t bytes[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtepi32_epi8(codes));
  for (uint32_t i = 0; i < 4; ++i) quads[i * num_rows] = bytes[i];
}

// Rotated q of one row, as codes.
template <KvStorage kStorage>
inline void PrepareIntRow(const float* rotated, uint32_t padded_dim, uint32_t num_rows, IntQRow* header,
                          uint32_t* quads) {
  constexpr float kLevels = kQueryLevels<kStorage>;
  // Sizes are compared as bits, so that NaN and infinities stay on top.
  const __m512i size_bits = _mm512_set1_epi32(0x7fffffff);
  __m512i largest_bits = _mm512_setzero_si512();
  for (uint32_t d = 0; d < padded_dim; d += 16) {
    const __m512i bits = _mm512_and_si512(_mm512_loadu_si512(rotated + d), size_bits);
    largest_bits = _mm512_max_epu32(largest_bits, bits);
  }
  const uint32_t bits = _mm512_reduce_max_epu32(largest_bits);
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof(largest));
  const bool finite = bits < 0x7f800000;
  const __m512 inverse = _mm512_set1_ps(finite && largest > 0x1p-100f ? kLevels / largest : 0.0f);
  uint32_t* low_quads = quads + (kQueryParts<kStorage> - 1) * padded_dim / 4 * num_rows;
  __m512i sum = _mm512_setzero_si512();
  for (uint32_t d = 0; d < padded_dim; d += 16) {
    const __m512i value = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(rotated + d), inverse));
    if constexpr (kQueryParts<kStorage> == 2) {
      const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(value, _mm512_set1_epi32(128)), 8);
      StoreQuads(high, num_rows, quads + d / 4 * num_rows);
    }
    StoreQuads(value, num_rows,
               low_quads + d / 4 * num_rows);  // its low byte, of value - 256 * high too
    sum = _mm512_add_epi32(sum, value);
  }
  const int32_t total = finite ? _mm512_reduce_add_epi32(sum) : 0;
  const float unit = kStorage == KvStorage::kInt8 ? 1 / kLevels : 0.5f / kLevels;
  header->scale = finite ? largest * unit : __builtin_nanf("");
  header->begin = kStorage == KvStorage::kInt8 ? -128 * total : -15 * total;
}

template <KvStorage kStorage>
void PrepareIntQ(const KernelRows& rows, const float* q, void* prepared) {
  IntQRow* headers = static_cast<IntQRow*>(prepared);
  uint32_t* quads = const_cast<uint32_t*>(QuadsOf(rows, prepared));
  for (uint32_t row = 0; row < rows.num_rows; ++row) {
    alignas(64) float rotated[limits::kMaxHeadDim];
    __builtin_memcpy(rotated, q + row * rows.padded_dim, rows.padded_dim * sizeof(float));
    RotateRow(rotated, rows.layout->head_dim);
    PrepareIntRow<kStorage>(rotated, rows.padded_dim, rows.num_rows, headers + row, quads + row);
  }
}

// Makes the scores out of the sums of kSlots slots from `slot` on, [part][row][slot].
template <KvStorage kStorage, uint32_t kRows, uint32_t kSlots>
__attribute__((always_inline)) inline void StoreScores(const __m512i (*sums)[kRows][kSlots], const IntQRow* headers,
                                                       const KernelStep& step, uint32_t slot, float* scores) {
#pragma GCC unroll 16
  for (uint32_t s = 0; s < kSlots; ++s) {
    const __m512 scales = SlotScales(step.k_params[slot + s], step.subgroup[slot + s]);
#pragma GCC unroll 16
    for (uint32_t row = 0; row < kRows; ++row) {
      __m512i sum = sums[0][row][s];
      if constexpr (kQueryParts<kStorage> == 2) {
        sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), sums[1][row][s]);
      } else {
        sum = _mm512_add_epi32(_mm512_add_epi32(sum, sum), _mm512_set1_epi32(headers[row].begin));
      }
      const __m512 scale = _mm512_mul_ps(scales, _mm512_set1_ps(headers[row].scale));
      _mm512_storeu_ps(scores + row * kKvTileTokens + (slot + s) * kKvSubgroupTokens,
                       _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
    }
  }
}

// Scores of kRows rows for kSlots slots from `slot` on. Not inlined, like the other inner loops here: what GCC hoists
// out of an outer loop would take the registers of the sums.
template <KvStorage kStorage, uint32_t kRows, uint32_t kSlots, Fetch kFetch>
[[gnu::noinline]] void ScoreIntSlots(const KernelRows& rows, const IntQRow* headers, const uint32_t* quads,
                                     const KernelStep& step, uint32_t slot, LinesAhead* ahead, float* scores) {
  constexpr uint32_t kParts = kQueryParts<kStorage>;
  constexpr uint32_t kHalves = kStorage == KvStorage::kInt4 ? 2 : 1;  // quads of a line of codes
  const uint32_t part_quads = rows.padded_dim / 4 * rows.num_rows;
  __m512i sums[kParts][kRows][kSlots];
#pragma GCC unroll 16
  for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (uint32_t s = 0; s < kSlots; ++s) {
      sums[0][row][s] = _mm512_setzero_si512();
      if constexpr (kParts == 2) sums[1][row][s] = _mm512_set1_epi32(headers[row].begin);
    }
  }
  const uint32_t slot_bytes = rows.padded_dim / (4 * kHalves) * 64;
  const unsigned char* next = nullptr;
  LinesAhead lines;
  if constexpr (kFetch == Fetch::kRun) next = step.next_k[0] + slot * slot_bytes;
  if constexpr (kFetch == Fetch::kPieces) lines = *ahead;
#pragma GCC unroll 1
  for (uint32_t at = 0; at < slot_bytes; at += 64) {
    __m512i codes[kSlots];
#pragma GCC unroll 16
    for (uint32_t s = 0; s < kSlots; ++s) {
      if constexpr (kFetch == Fetch::kPieces) lines.template Prefetch<1>();
      if constexpr (kFetch == Fetch::kRun) {
        PrefetchCodeLine(kHalves == 1 ? next + at * kSlots + s * 64 : next + s * slot_bytes + at);
      }
      codes[s] = _mm512_loadu_si512(step.k[slot + s] + at);
    }
#pragma GCC unroll 16
    for (uint32_t half = 0; half < kHalves; ++half) {
      __m512i k[kSlots];
#pragma GCC unroll 16
      for (uint32_t s = 0; s < kSlots; ++s) {
        k[s] = kHalves == 1 ? codes[s] : half == 0 ? LowNibbles(codes[s]) : HighNibbles(codes[s]);
      }
#pragma GCC unroll 16
      for (uint32_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
        for (uint32_t part = 0; part < kParts; ++part) {
          const __m512i q = BroadcastQuad(quads[part * part_quads + row]);
#pragma GCC unroll 16
          for (uint32_t s = 0; s < kSlots; ++s) {
            sums[part][row][s] = DotU8S8(sums[part][row][s], k[s], q);
          }
        }
      }
      quads += rows.num_rows;
    }
  }
  if constexpr (kFetch == Fetch::kPieces) {
    lines.Count(slot_bytes / 64 * kSlots);
    *ahead = lines;
  }
  StoreScores<kStorage, kRows, kSlots>(sums, headers, step, slot, scores);
}

// kRows rows, all slots: kSlots at a time, then one by one.
template <KvStorage kStorage, uint32_t kRows, uint32_t kSlots, Fetch kFetch>
inline void ScoreIntRows(const KernelRows& rows, const IntQRow* headers, const uint32_t* quads, const KernelStep& step,
                         float* scores) {
  uint32_t slot = 0;
  LinesAhead ahead;
  if constexpr (kFetch == Fetch::kPieces) {
    ahead = LinesOf(step.next_k, rows.layout->k_subgroup_bytes);
  }
  for (; slot + kSlots <= step.num_slots; slot += kSlots) {
    ScoreIntSlots<kStorage, kRows, kSlots, kFetch>(rows, headers, quads, step, slot, &ahead, scores);
  }
  for (; slot < step.num_slots; ++slot) {
    ScoreIntSlots<kStorage, kRows, 1, kFetch>(rows, headers, quads, step, slot, &ahead, scores);
  }
}

// Scores as many of the rows from `row` on as one block takes; returns how many.
template <KvStorage kStorage, Fetch kFetch>
inline uint32_t ScoreIntBlock(const KernelRows& rows, const void* prepared, const KernelStep& step, uint32_t row,
                              float* scores) {
  const IntQRow* headers = static_cast<const IntQRow*>(prepared) + row;
  const uint32_t* quads = QuadsOf(rows, prepared) + row;
  float* to = scores + row * kKvTileTokens;
  const uint32_t rest = rows.num_rows - row;
  if (rest >= 4) {
    ScoreIntRows<kStorage, 4, 4 / kQueryParts<kStorage>, kFetch>(rows, headers, quads, step, to);
    return 4;
  }
  if (rest >= 2) {
    ScoreIntRows<kStorage, 2, 4, kFetch>(rows, headers, quads, step, to);
    return 2;
  }
  ScoreIntRows<kStorage, 1, 4, kFetch>(rows, headers, quads, step, to);
  return 1;
}

template <KvStorage kStorage>
void ScoreInt(const KernelRows& rows, const void* prepared, const KernelStep& step, float* scores) {
  uint32_t row = 0;
  switch (FetchOf(step, step.next_k, rows.layout->k_subgroup_bytes)) {
    case Fetch::kRun:
      row = ScoreIntBlock<kStorage, Fetch::kRun>(rows, prepared, step, 0, scores);
      break;
    case Fetch::kPieces:
      row = ScoreIntBlock<kStorage, Fetch::kPieces>(rows, prepared, step, 0, scores);
      break;
    case Fetch::kNothing:
      break;
  }
  while (row < rows.num_rows) {
    row += ScoreIntBlock<kStorage, Fetch::kNothing>(rows, prepared, step, row, scores);
  }
}

template <KvStorage kStorage>
constexpr KPrimitive kIntDotK = {&PrepareIntQ<kStorage>, &ScoreInt<kStorage>};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
