// Primitives over 16 floats: AVX-512 F, BW, DQ, VL. Each vec_*.h has the same names in a namespace of its own:
//
//   Vec::Load*(from)      kLanes elements, widened to f32
//   Vec::Load*(from, n)   the first n of them; the other lanes are zero and not read
//   Exp2(x)               2^x within 1.2e-7 for x <= 0, exactly 1 for 0; 0 for -inf, NaN for NaN. Minimax polynomial
//                         of degree 5 on [-0.5, 0.5] with p(0) = 1, times 2^n
//   Exp(x)                e^x within 2 ulp for x in [-87, 0]; below, towards 0; -inf gives 0, NaN gives NaN
//   Max(a, b)             per lane; which operand a NaN gives is not defined
//   ReduceEach(sums)      lane i = the sum of the lanes of sums[i]
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

struct Vec {
  static constexpr uint32_t kLanes = 16;
  __m512 lane;

  static __mmask16 Mask(uint32_t lanes) { return static_cast<__mmask16>((1u << lanes) - 1); }
  static Vec Zero() { return {_mm512_setzero_ps()}; }
  static Vec Broadcast(float value) { return {_mm512_set1_ps(value)}; }
  static Vec Load(const float* from, uint32_t lanes) {
    if (lanes == kLanes) return {_mm512_loadu_ps(from)};
    return {_mm512_maskz_loadu_ps(Mask(lanes), from)};
  }
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
  static Vec LoadBf16(const uint16_t* from, uint32_t lanes) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(Load16(from, lanes)), 16))};
  }
  static Vec LoadF16(const uint16_t* from, uint32_t lanes) {
    return {_mm512_cvtph_ps(Load16(from, lanes))};
  }
  void Store(float* to, uint32_t lanes) const {
    if (lanes == kLanes) {
      _mm512_storeu_ps(to, lane);
    } else {
      _mm512_mask_storeu_ps(to, Mask(lanes), lane);
    }
  }

 private:
  static __m256i Load16(const uint16_t* from, uint32_t lanes) {
    if (lanes == kLanes) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm256_maskz_loadu_epi16(Mask(lanes), from);
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

// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the minimax polynomial of Cephes' expf (S. Moshier);
// times 2^n.
inline Vec Exp(Vec x) {
  // max(a, b) gives b if either is NaN. Below -104, e^x is less than half of the smallest subnormal
  // number.
  const __m512 clamped = _mm512_max_ps(_mm512_set1_ps(-110.0f), x.lane);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(clamped, _mm512_set1_ps(1.44269504f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), clamped);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 poly = _mm512_set1_ps(1.9875691500e-4f);
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(1.3981999507e-3f));
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(8.3334519073e-3f));
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(4.1665795894e-2f));
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(1.6666665459e-1f));
  poly = _mm512_fmadd_ps(poly, r, _mm512_set1_ps(5.0000001201e-1f));
  poly = _mm512_fmadd_ps(_mm512_mul_ps(r, r), poly, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return {_mm512_scalef_ps(poly, n)};
}

inline float ReduceAdd(Vec x) { return _mm512_reduce_add_ps(x.lane); }
inline float ReduceMax(Vec x) { return _mm512_reduce_max_ps(x.lane); }

// a0 a1 a2 a3 | ..., b0 b1 b2 b3 | ... -> a02 b02 a13 b13 | ...
inline __m512 AddPairs(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
}
// Of four rows -> a b c d | ..., each the sum over its 128-bit lane.
inline __m512 AddQuads(const Vec* s) {
  const __m512d ab = _mm512_castps_pd(AddPairs(s[0].lane, s[1].lane));
  const __m512d cd = _mm512_castps_pd(AddPairs(s[2].lane, s[3].lane));
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
}
// Adds neighbouring 128-bit lanes: x01 x23 y01 y23.
inline __m512 AddLanes(__m512 x, __m512 y) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
}

inline Vec ReduceEach(const Vec (&s)[Vec::kLanes]) {
  return {AddLanes(AddLanes(AddQuads(s), AddQuads(s + 4)),
                   AddLanes(AddQuads(s + 8), AddQuads(s + 12)))};
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
