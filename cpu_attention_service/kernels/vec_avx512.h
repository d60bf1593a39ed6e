// Primitives over 16 floats: AVX-512 F, BW, DQ, VL. Each vec_*.h has the same names in a namespace of its own:
//
//   Vec::Load*(from)      kLanes elements, widened to f32
//   Exp2(x)               2^x within 1.2e-7 for x <= 0, exactly 1 for 0; 0 for -inf, NaN for NaN. Minimax polynomial
//                         of degree 5 on [-0.5, 0.5] with p(0) = 1, times 2^n
//   Max(a, b)             per lane; which operand a NaN gives is not defined
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

struct Vec {
  static constexpr uint32_t kLanes = 16;
  __m512 lane;

  static Vec Zero() { return {_mm512_setzero_ps()}; }
  static Vec Broadcast(float value) { return {_mm512_set1_ps(value)}; }
  static Vec Load(const float* from) { return {_mm512_loadu_ps(from)}; }
  void Store(float* to) const { _mm512_storeu_ps(to, lane); }
  // kLanes lanes of two bf16: the low ones, the high ones.
  static Vec LoadLowBf16(const void* from) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(from), 16))};
  }
  static Vec LoadHighBf16(const void* from) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from), high))};
  }
  static Vec LoadF16(const uint16_t* from) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
  }
};

inline Vec Add(Vec a, Vec b) { return {_mm512_add_ps(a.lane, b.lane)}; }
inline Vec Sub(Vec a, Vec b) { return {_mm512_sub_ps(a.lane, b.lane)}; }
inline Vec Mul(Vec a, Vec b) { return {_mm512_mul_ps(a.lane, b.lane)}; }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.lane, b.lane, c.lane)}; }
inline Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.lane, b.lane)}; }

inline Vec Div(Vec a, Vec b) { return {_mm512_div_ps(a.lane, b.lane)}; }
inline Vec Abs(Vec a) { return {_mm512_abs_ps(a.lane)}; }
// Bit i set: lane i of a; else of b.
inline Vec Blend(uint32_t bits, Vec a, Vec b) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(bits), b.lane, a.lane)};
}
// Per lane a < b ? x : y.
inline Vec IfLess(Vec a, Vec b, Vec x, Vec y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.lane, b.lane, _CMP_LT_OQ), y.lane, x.lane)};
}
inline bool AnyGreater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.lane, b.lane, _CMP_GT_OQ) != 0; }

inline Vec Exp2(Vec x) {
  const __m512 clamped = _mm512_max_ps(_mm512_set1_ps(-160.0f), x.lane);  // NaN stays
  const __m512 n = _mm512_roundscale_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(clamped, n);
  __m512 poly = _mm512_set1_ps(1.326472731e-03f);
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(9.671512991e-03f));
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(5.550733581e-02f));
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(2.402224243e-01f));
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(6.931470037e-01f));
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(1.0f));
  return {_mm512_scalef_ps(poly, n)};
}

inline float ReduceAdd(Vec x) { return _mm512_reduce_add_ps(x.lane); }
inline float ReduceMax(Vec x) { return _mm512_reduce_max_ps(x.lane); }

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
