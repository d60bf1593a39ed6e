// Primitives of block selection over 8 elements: AVX2 and FMA. select_lanes_scalar.h says what each does.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tributary {
namespace avx2 {
namespace {

struct Lanes {
  using F = __m256;
  using I = __m256i;
  static constexpr uint32_t kLanes = 8;
  static constexpr uint32_t kVectors = 2;  // with 4 heads 8 sums, of 16 registers
  static constexpr uint32_t kQuadWords = 2;

  static F BroadcastF(float x) { return _mm256_set1_ps(x); }
  static F LoadF(const float* from) { return _mm256_loadu_ps(from); }
  static void StoreF(float* to, F x) { _mm256_storeu_ps(to, x); }
  static I ZeroI() { return _mm256_setzero_si256(); }
  static I BroadcastI(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static I LoadI(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static void StoreI(uint32_t* to, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), x); }

  static I AddI(I a, I b) { return _mm256_add_epi32(a, b); }
  static I SubI(I a, I b) { return _mm256_sub_epi32(a, b); }
  static I AndI(I a, I b) { return _mm256_and_si256(a, b); }
  template <uint32_t kBits>
  static I ShiftRight(I x) {
    return _mm256_srli_epi32(x, kBits);
  }
  static F SubF(F a, F b) { return _mm256_sub_ps(a, b); }
  static F MulF(F a, F b) { return _mm256_mul_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F ToFloat(I x) { return _mm256_cvtepi32_ps(x); }
  static F LowBf16(I x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
  static F HighBf16(I x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }

  static I CountNotLess(I count, F x, F limit) { return CountTrue(count, _mm256_cmp_ps(x, limit, _CMP_NLT_UQ)); }
  static I CountNan(I count, F x) { return CountTrue(count, _mm256_cmp_ps(x, x, _CMP_UNORD_Q)); }
  static uint32_t NotLess(F x, F limit) { return Bits(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ)); }
  static uint32_t NotLessEqual(F x, F limit) { return Bits(_mm256_cmp_ps(x, limit, _CMP_NLE_UQ)); }
  static uint32_t Equal(F x, F y) { return Bits(_mm256_cmp_ps(x, y, _CMP_EQ_OQ)); }
  static uint32_t Greater(I x, I y) { return Bits(_mm256_castsi256_ps(_mm256_cmpgt_epi32(x, y))); }
  static uint32_t EqualI(I x, I y) { return Bits(_mm256_castsi256_ps(_mm256_cmpeq_epi32(x, y))); }
  static F MinNumber(F x, F low) { return _mm256_min_ps(x, low); }  // the second if either is NaN
  static F MaxNumber(F x, F high) { return _mm256_max_ps(x, high); }
  static F MaxFinite(F x, F high) {
    const F is_finite = _mm256_cmp_ps(x, _mm256_set1_ps(__builtin_inff()), _CMP_LT_OQ);
    return _mm256_max_ps(_mm256_and_ps(x, is_finite), high);
  }
  static F MaxOrNan(F a, F b) { return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
  static float ReduceMin(F x) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, x);
    float low = lanes[0];
    for (float lane : lanes) low = lane < low ? lane : low;
    return low;
  }
  static float ReduceMax(F x) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, x);
    float high = lanes[0];
    for (float lane : lanes) high = lane > high ? lane : high;
    return high;
  }
  static uint32_t ReduceAdd(I x) { return static_cast<uint32_t>(ReduceAddWide(x)); }
  static uint64_t ReduceAddWide(I x) {
    alignas(32) uint32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), x);
    uint64_t sum = 0;
    for (uint32_t lane : lanes) sum += lane;
    return sum;
  }

  // 16-bit pairs of the even and of the odd bytes: vpmaddubsw would saturate.
  static void PackQuad(const int8_t (&codes)[4], uint32_t* to) {
    const int16_t pairs[4] = {codes[0], codes[2], codes[1], codes[3]};
    __builtin_memcpy(to, pairs, sizeof(pairs));
  }
  static I DotQuads(I sum, I x, const uint32_t* words) {
    const I even = _mm256_and_si256(x, _mm256_set1_epi16(0xff));
    const I odd = _mm256_srli_epi16(x, 8);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, BroadcastI(words[0])));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(odd, BroadcastI(words[1])));
  }
  static I AddIfAtMost(I sum, I x, I y, I limit) {
    const I at_most = _mm256_cmpeq_epi32(_mm256_min_epu32(y, limit), y);
    return _mm256_add_epi32(sum, _mm256_and_si256(x, at_most));
  }
  static I ToFixed(F weight, float largest, float scale, uint32_t always) {
    const F positive = _mm256_max_ps(weight, _mm256_setzero_ps());
    const I fixed = _mm256_cvtps_epi32(_mm256_mul_ps(positive, _mm256_set1_ps(scale)));
    const F is_number = _mm256_cmp_ps(weight, _mm256_set1_ps(largest), _CMP_LE_OQ);
    return _mm256_blendv_epi8(BroadcastI(always), fixed, _mm256_castps_si256(is_number));
  }
  static uint32_t* Compress(uint32_t first, uint32_t bits, uint32_t* to) {
    for (; bits != 0; bits &= bits - 1) *to++ = first + static_cast<uint32_t>(__builtin_ctz(bits));
    return to;
  }
  static float* CompressF(F x, uint32_t bits, float* to) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, x);
    for (; bits != 0; bits &= bits - 1) *to++ = lanes[__builtin_ctz(bits)];
    return to;
  }
  static void CompressVectors(uint32_t first, const F (&x)[kVectors], uint64_t bits, uint32_t* ids, float* to) {
#pragma GCC unroll 4
    for (uint32_t v = 0; v < kVectors; ++v) {
      const auto of_vector = static_cast<uint32_t>(bits >> (v * kLanes)) & ((1u << kLanes) - 1);
      Compress(first + v * kLanes, of_vector, ids);
      CompressF(x[v], of_vector, to);
      ids += __builtin_popcount(of_vector);
      to += __builtin_popcount(of_vector);
    }
  }
  static int32_t DotCodes(const int8_t* x, const int16_t* q, const int8_t* /*bytes*/, int32_t /*sum*/, uint32_t dims) {
    int32_t dot = 0;
    for (uint32_t dim = 0; dim < dims; ++dim) dot += x[dim] * q[dim];
    return dot;
  }

 private:
  static I CountTrue(I count, F mask) { return _mm256_sub_epi32(count, _mm256_castps_si256(mask)); }
  static uint32_t Bits(F mask) { return static_cast<uint32_t>(_mm256_movemask_ps(mask)); }
};

}  // namespace
}  // namespace avx2
}  // namespace tributary
