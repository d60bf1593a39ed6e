// Primitives over 8 floats: AVX2, FMA, F16C. See vec_avx512.h for their meaning.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

struct Vec {
  static constexpr uint32_t kLanes = 8;
  __m256 lane;

  static Vec Zero() { return {_mm256_setzero_ps()}; }
  static Vec Broadcast(float value) { return {_mm256_set1_ps(value)}; }
  static Vec Load(const float* from) { return {_mm256_loadu_ps(from)}; }
  void Store(float* to) const { _mm256_storeu_ps(to, lane); }
  static Vec LoadLowBf16(const void* from) {
    const __m256i pairs = _mm256_loadu_si256(static_cast<const __m256i*>(from));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16))};
  }
  static Vec LoadHighBf16(const void* from) {
    const __m256i pairs = _mm256_loadu_si256(static_cast<const __m256i*>(from));
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(_mm256_and_si256(pairs, high))};
  }
  static Vec LoadF16(const uint16_t* from) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))};
  }
};

inline Vec Add(Vec a, Vec b) { return {_mm256_add_ps(a.lane, b.lane)}; }
inline Vec Sub(Vec a, Vec b) { return {_mm256_sub_ps(a.lane, b.lane)}; }
inline Vec Mul(Vec a, Vec b) { return {_mm256_mul_ps(a.lane, b.lane)}; }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.lane, b.lane, c.lane)}; }
inline Vec Max(Vec a, Vec b) { return {_mm256_max_ps(a.lane, b.lane)}; }

inline Vec Div(Vec a, Vec b) { return {_mm256_div_ps(a.lane, b.lane)}; }
inline Vec Abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.lane)}; }
inline Vec Blend(uint32_t bits, Vec a, Vec b) {
  const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), lane_bit);
  const __m256i mask = _mm256_cmpeq_epi32(set, lane_bit);
  return {_mm256_blendv_ps(b.lane, a.lane, _mm256_castsi256_ps(mask))};
}
inline Vec IfLess(Vec a, Vec b, Vec x, Vec y) {
  return {_mm256_blendv_ps(y.lane, x.lane, _mm256_cmp_ps(a.lane, b.lane, _CMP_LT_OQ))};
}
inline bool AnyGreater(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a.lane, b.lane, _CMP_GT_OQ)) != 0; }

// 2^n is built in the exponent field: results below the smallest normal number are flushed to 0.
inline Vec Exp2(Vec x) {
  const __m256 n = _mm256_round_ps(x.lane, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 r = _mm256_sub_ps(x.lane, n);
  __m256 poly = _mm256_set1_ps(1.326472731e-03f);
  poly = _mm256_fmadd_ps(poly, r, _mm256_set1_ps(9.671512991e-03f));
  poly = _mm256_fmadd_ps(poly, r, _mm256_set1_ps(5.550733581e-02f));
  poly = _mm256_fmadd_ps(poly, r, _mm256_set1_ps(2.402224243e-01f));
  poly = _mm256_fmadd_ps(poly, r, _mm256_set1_ps(6.931470037e-01f));
  poly = _mm256_fmadd_ps(poly, r, _mm256_set1_ps(1.0f));
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  const __m256 result = _mm256_mul_ps(poly, _mm256_castsi256_ps(exponent));
  // Ordered comparison: false for NaN, which passes through.
  const __m256 vanishes = _mm256_cmp_ps(x.lane, _mm256_set1_ps(-126.0f), _CMP_LT_OQ);
  return {_mm256_andnot_ps(vanishes, result)};
}

inline float ReduceAdd(Vec x) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(x.lane), _mm256_extractf128_ps(x.lane, 1));
  const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
inline float ReduceMax(Vec x) {
  const __m128 half = _mm_max_ps(_mm256_castps256_ps128(x.lane), _mm256_extractf128_ps(x.lane, 1));
  const __m128 quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
