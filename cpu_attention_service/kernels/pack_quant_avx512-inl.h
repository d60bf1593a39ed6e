// Quantising and packing of 16 tokens at once with AVX-512 F, BW, DQ, VL: a lane per token, so that rotation, the
// largest element and codes of attention/kv/kv_quantise.h need no shuffles. The same bits as QuantiseKvRow. Included by
// pack_avx512.cc.
#pragma once

#include <immintrin.h>

#include "attention/kv/hadamard.h"
#include "attention/kv/kv_tile_layout.h"
#include "base/limits.h"

namespace tributary {
namespace {

// 16 rows of one K or V, of a quantised storage.
struct QuantRows {
  KvStorage storage;
  KvStorage source;  // of the rows: f32, bf16, f16
  const unsigned char* data;
  size_t stride_bytes;
  uint32_t head_dim;
  uint32_t padded_dim;
  bool is_k;
};

// [padded_dim][16 tokens]
struct QuantLanes {
  alignas(64) float x[limits::kMaxHeadDim][16];
};

// 16 elements of a row as f32; zeros beyond head_dim.
inline __m512 LoadRow16(const QuantRows& rows, uint32_t row, uint32_t dim) {
  const unsigned char* from = rows.data + row * rows.stride_bytes;
  const uint32_t rest = dim < rows.head_dim ? rows.head_dim - dim : 0;
  const __mmask16 mask = rest >= 16 ? 0xffff : (1u << rest) - 1;
  if (rows.source == KvStorage::kF32) return _mm512_maskz_loadu_ps(mask, from + dim * 4);
  const __m256i halves = _mm256_maskz_loadu_epi16(mask, from + dim * 2);
  if (rows.source == KvStorage::kF16) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

template <uint32_t kCount>
inline void Butterflies(__m512 (&x)[kCount], uint32_t half) {
#pragma GCC unroll 16
  for (uint32_t i = 0; i < kCount; ++i) {
    if ((i & half) != 0) continue;
    const __m512 low = x[i], high = x[i | half];
    x[i] = _mm512_add_ps(low, high);
    x[i | half] = _mm512_sub_ps(low, high);
  }
}

// Rows -> lanes, and the butterflies of width 1 to 8 of the rotation.
inline void TransposeRows(const QuantRows& rows, uint32_t block, QuantLanes* lanes) {
  for (uint32_t dim = 0; dim < rows.padded_dim; dim += 16) {
    __m512i bits[16];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 16; ++i) bits[i] = _mm512_castps_si512(LoadRow16(rows, i, dim));
    Transpose16x16(bits);
    __m512 x[16];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 16; ++i) x[i] = _mm512_castsi512_ps(bits[i]);
    if (block > 1) Butterflies(x, 1);
    if (block > 2) Butterflies(x, 2);
    if (block > 4) Butterflies(x, 4);
    if (block > 8) Butterflies(x, 8);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < 16; ++i) _mm512_store_ps(lanes->x[dim + i], x[i]);
  }
}

// The butterflies of width 16 and more of blocks of 16 * kVecs dims, the norm, and the largest |element| of each lane
// as bits, which have NaN and infinities on top.
template <uint32_t kVecs>
inline __m512i FinishRotation(uint32_t head_dim, float norm, QuantLanes* lanes) {
  const __m512i size_bits = _mm512_set1_epi32(0x7fffffff);
  __m512i largest = _mm512_setzero_si512();
  for (uint32_t first = 0; first < head_dim; first += 16 * kVecs) {
    for (uint32_t d = first; d < first + 16 && d < head_dim; ++d) {
      __m512 x[kVecs];
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kVecs; ++i) x[i] = _mm512_load_ps(lanes->x[d + 16 * i]);
      if constexpr (kVecs > 1) Butterflies(x, 1);
      if constexpr (kVecs > 2) Butterflies(x, 2);
      if constexpr (kVecs > 4) Butterflies(x, 4);
      if constexpr (kVecs > 8) Butterflies(x, 8);
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kVecs; ++i) {
        x[i] = _mm512_mul_ps(x[i], _mm512_set1_ps(norm));
        largest = _mm512_max_epu32(largest, _mm512_and_si512(_mm512_castps_si512(x[i]), size_bits));
        _mm512_store_ps(lanes->x[d + 16 * i], x[i]);
      }
    }
  }
  return largest;
}

inline __m512i RotateLanes(uint32_t head_dim, uint32_t block, QuantLanes* lanes) {
  const float norm = _mm_cvtss_f32(_mm_div_ss(_mm_set_ss(1.0f), _mm_sqrt_ss(_mm_set_ss(static_cast<float>(block)))));
  switch (block) {
    case 32:
      return FinishRotation<2>(head_dim, norm, lanes);
    case 64:
      return FinishRotation<4>(head_dim, norm, lanes);
    case 128:
      return FinishRotation<8>(head_dim, norm, lanes);
    case 256:
      return FinishRotation<16>(head_dim, norm, lanes);
    default:
      return FinishRotation<1>(head_dim, norm, lanes);
  }
}

// Codes of one element of 16 tokens, one per 32-bit lane.
struct IntQuantiser {
  __m512 inverse;
  __mmask16 usable;  // lanes that are neither zero nor NaN
  bool is_int8;
  int32_t offset;  // int8: 128 for K

  __m512i Codes(__m512 x) const {
    const __m512 scaled = _mm512_mul_ps(x, inverse);
    if (is_int8) {
      const __m512i codes = _mm512_maskz_cvtps_epi32(usable, scaled);
      return _mm512_and_si512(_mm512_add_epi32(codes, _mm512_set1_epi32(offset)), _mm512_set1_epi32(0xff));
    }
    const __m512i floor = _mm512_cvt_roundps_epi32(scaled, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    const __m512i codes = _mm512_add_epi32(floor, _mm512_set1_epi32(8));
    return _mm512_maskz_min_epi32(usable, _mm512_max_epi32(codes, _mm512_setzero_si512()), _mm512_set1_epi32(15));
  }
};

// Writes the scales of the 16 tokens.
inline IntQuantiser MakeIntQuantiser(const QuantRows& rows, __m512i largest_bits, unsigned char* scales) {
  const bool is_int8 = rows.storage == KvStorage::kInt8;
  const __m512 largest = _mm512_castsi512_ps(largest_bits);
  const __mmask16 finite = _mm512_cmplt_epu32_mask(largest_bits, _mm512_set1_epi32(0x7f800000));
  const __mmask16 usable = _mm512_mask_cmp_ps_mask(finite, largest, _mm512_set1_ps(0x1p-100f), _CMP_GE_OQ);
  const __m512 step = _mm512_div_ps(largest, _mm512_set1_ps(is_int8 ? 127.0f : 7.5f));
  __m512i scale_bits = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(step), _mm512_set1_epi32(0xffff)), 16);
  scale_bits = _mm512_maskz_mov_epi32(usable, scale_bits);
  scale_bits = _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fc0), finite, scale_bits);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(scales), _mm512_cvtepi32_epi16(scale_bits));
  const __m512 scale = _mm512_castsi512_ps(_mm512_slli_epi32(scale_bits, 16));
  return {_mm512_div_ps(_mm512_set1_ps(1.0f), scale), usable, is_int8, is_int8 && rows.is_k ? 128 : 0};
}

struct Fp8Quantiser {
  __m512i Codes(__m512 x) const {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), _mm512_set1_epi32(0x80));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(magnitude, 20), _mm512_set1_epi32(1));
    __m512i code = _mm512_add_epi32(_mm512_add_epi32(magnitude, odd), _mm512_set1_epi32(0x7ffff - (120 << 23)));
    code = _mm512_srli_epi32(code, 20);
    const __m512 size = _mm512_castsi512_ps(magnitude);
    const __mmask16 subnormal = _mm512_cmplt_epu32_mask(magnitude, _mm512_set1_epi32(0x3c800000));
    code = _mm512_mask_cvtps_epi32(code, subnormal, _mm512_mul_ps(size, _mm512_set1_ps(512.0f)));
    const __mmask16 large = _mm512_cmpge_epu32_mask(magnitude, _mm512_set1_epi32(0x43e00000));
    code = _mm512_mask_mov_epi32(code, large, _mm512_set1_epi32(0x7e));
    const __mmask16 special = _mm512_cmpge_epu32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
    code = _mm512_mask_mov_epi32(code, special, _mm512_set1_epi32(0x7f));
    return _mm512_or_si512(code, sign);
  }
};

// Codes of dims dim .. dim + 3: a byte each. Beyond head_dim zeros.
template <typename Quantiser>
inline __m512i QuadOfDims(const Quantiser& quantiser, const QuantLanes& lanes, uint32_t head_dim, uint32_t dim) {
  __m512i quad = _mm512_setzero_si512();
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) {
    if (dim + i >= head_dim) break;
    const __m512i codes = quantiser.Codes(_mm512_load_ps(lanes.x[dim + i]));
    quad = _mm512_or_si512(quad, _mm512_slli_epi32(codes, 8 * i));
  }
  return quad;
}

// These reorder each 128-bit block of 4 tokens x 4 dims: into the order of fp8's lanes of tokens, into its transpose,
// and into the order of fp8's lanes of dims (KvLaneOffset).
inline __m512i Fp8TokenLanes(__m512i quad) {
  return _mm512_shuffle_epi8(quad, _mm512_set4_epi32(0x0f0e0b0a, 0x07060302, 0x0d0c0908, 0x05040100));
}
inline __m512i TransposeBytes(__m512i quad) {
  return _mm512_shuffle_epi8(quad, _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400));
}
inline __m512i Fp8DimLanes(__m512i quad) {
  return _mm512_shuffle_epi8(quad, _mm512_set4_epi32(0x0f0b0e0a, 0x0d090c08, 0x07030602, 0x05010400));
}

template <typename Quantiser>
void PackQuantK(const QuantRows& rows, const Quantiser& quantiser, const QuantLanes& lanes, unsigned char* codes) {
  if (rows.storage == KvStorage::kInt4) {
    for (uint32_t dim = 0; dim < rows.padded_dim; dim += 8, codes += 64) {
      const __m512i low = QuadOfDims(quantiser, lanes, rows.head_dim, dim);
      const __m512i high = QuadOfDims(quantiser, lanes, rows.head_dim, dim + 4);
      Store64(codes, _mm512_or_si512(low, _mm512_slli_epi32(high, 4)));
    }
    return;
  }
  const bool is_fp8 = rows.storage == KvStorage::kFp8E4m3;
  for (uint32_t dim = 0; dim < rows.padded_dim; dim += 4, codes += 64) {
    const __m512i quad = QuadOfDims(quantiser, lanes, rows.head_dim, dim);
    Store64(codes, is_fp8 ? Fp8TokenLanes(quad) : quad);
  }
}

// 16 dims of 16 tokens: by_tokens[i] gets the 16 dims of tokens 4 i .. 4 i + 3.
template <typename Quantiser>
inline void QuadsOfTokens(const QuantRows& rows, const Quantiser& quantiser, const QuantLanes& lanes, uint32_t dim,
                          __m512i (&by_tokens)[4]) {
  __m512i q[4];
#pragma GCC unroll 4
  for (uint32_t i = 0; i < 4; ++i) {
    const __m512i quad = QuadOfDims(quantiser, lanes, rows.head_dim, dim + 4 * i);
    q[i] = rows.storage == KvStorage::kFp8E4m3 ? Fp8DimLanes(quad) : TransposeBytes(quad);
  }
  const __m512i low01 = _mm512_shuffle_i32x4(q[0], q[1], 0x44);
  const __m512i high01 = _mm512_shuffle_i32x4(q[0], q[1], 0xee);
  const __m512i low23 = _mm512_shuffle_i32x4(q[2], q[3], 0x44);
  const __m512i high23 = _mm512_shuffle_i32x4(q[2], q[3], 0xee);
  by_tokens[0] = _mm512_shuffle_i32x4(low01, low23, 0x88);
  by_tokens[1] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
  by_tokens[2] = _mm512_shuffle_i32x4(high01, high23, 0x88);
  by_tokens[3] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
}

template <typename Quantiser>
void PackQuantV(const QuantRows& rows, const Quantiser& quantiser, const QuantLanes& lanes, unsigned char* codes) {
  const bool is_int4 = rows.storage == KvStorage::kInt4;
  for (uint32_t strip = 0; strip < rows.padded_dim; strip += kKvStripDims) {
    const uint32_t rest = rows.padded_dim - strip;
    const uint32_t dims = rest < kKvStripDims ? rest : kKvStripDims;
    for (uint32_t dim = 0; dim < dims; dim += 16) {
      __m512i quads[4];
      QuadsOfTokens(rows, quantiser, lanes, strip + dim, quads);
      unsigned char* to = codes + dim * 4;
      if (is_int4) {
        Store64(to, _mm512_or_si512(quads[0], _mm512_slli_epi32(quads[1], 4)));
        Store64(to + dims * 4, _mm512_or_si512(quads[2], _mm512_slli_epi32(quads[3], 4)));
        continue;
      }
#pragma GCC unroll 4
      for (uint32_t i = 0; i < 4; ++i) Store64(to + i * dims * 4, quads[i]);
    }
    codes += dims * kKvSubgroupTokens * (is_int4 ? 4 : 8) / 8;
  }
}

// Codes of a whole subgroup, and the scales of its tokens.
void PackQuantSubgroup(const QuantRows& rows, unsigned char* codes, unsigned char* scales) {
  QuantLanes lanes;
  if (rows.storage == KvStorage::kFp8E4m3) {
    TransposeRows(rows, 1, &lanes);
    const Fp8Quantiser quantiser;
    if (rows.is_k) {
      PackQuantK(rows, quantiser, lanes, codes);
    } else {
      PackQuantV(rows, quantiser, lanes, codes);
    }
    return;
  }
  const uint32_t block = rows.head_dim & (~rows.head_dim + 1);
  TransposeRows(rows, block, &lanes);
  const __m512i largest = RotateLanes(rows.head_dim, block, &lanes);
  const IntQuantiser quantiser = MakeIntQuantiser(rows, largest, scales);
  if (rows.is_k) {
    PackQuantK(rows, quantiser, lanes, codes);
  } else {
    PackQuantV(rows, quantiser, lanes, codes);
  }
}

}  // namespace
}  // namespace tributary
