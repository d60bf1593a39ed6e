// Primitives of block selection over 16 elements: AVX-512 F, BW, DQ, VL; the dot product also with VNNI where the
// source is built for it. select_lanes_scalar.h says what each does.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

struct Lanes {
  using F = __m512;
  using I = __m512i;
  static constexpr uint32_t kLanes = 16;
  static constexpr uint32_t kVectors = 4;  // a whole record; with 4 heads 16 sums, of 32 registers

  static F BroadcastF(float x) { return _mm512_set1_ps(x); }
  static F LoadF(const float* from) { return _mm512_loadu_ps(from); }
  static void StoreF(float* to, F x) { _mm512_storeu_ps(to, x); }
  static I ZeroI() { return _mm512_setzero_si512(); }
  static I BroadcastI(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static I LoadI(const void* from) { return _mm512_loadu_si512(from); }
  static void StoreI(uint32_t* to, I x) { _mm512_storeu_si512(to, x); }

  static I AddI(I a, I b) { return _mm512_add_epi32(a, b); }
  static I SubI(I a, I b) { return _mm512_sub_epi32(a, b); }
  static I AndI(I a, I b) { return _mm512_and_si512(a, b); }
  template <uint32_t kBits>
  static I ShiftRight(I x) {
    return _mm512_srli_epi32(x, kBits);
  }
  static F SubF(F a, F b) { return _mm512_sub_ps(a, b); }
  static F MulF(F a, F b) { return _mm512_mul_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F ToFloat(I x) { return _mm512_cvtepi32_ps(x); }
  static F LowBf16(I x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
  static F HighBf16(I x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }

  static I CountNotLess(I count, F x, F limit) { return CountTrue(count, _mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ)); }
  static I CountNan(I count, F x) { return CountTrue(count, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q)); }
  static uint32_t NotLess(F x, F limit) { return _mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ); }
  static uint32_t NotLessEqual(F x, F limit) { return _mm512_cmp_ps_mask(x, limit, _CMP_NLE_UQ); }
  static uint32_t Equal(F x, F y) { return _mm512_cmp_ps_mask(x, y, _CMP_EQ_OQ); }
  static uint32_t Greater(I x, I y) { return _mm512_cmpgt_epi32_mask(x, y); }
  static uint32_t EqualI(I x, I y) { return _mm512_cmpeq_epi32_mask(x, y); }
  static F MinNumber(F x, F low) { return _mm512_min_ps(x, low); }  // the second if either is NaN
  static F MaxNumber(F x, F high) { return _mm512_max_ps(x, high); }
  static F MaxFinite(F x, F high) {
    const __mmask16 is_finite = _mm512_cmp_ps_mask(x, _mm512_set1_ps(__builtin_inff()), _CMP_LT_OQ);
    return _mm512_mask_max_ps(high, is_finite, x, high);
  }
  static F MaxOrNan(F a, F b) {
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
  }
  static float ReduceMin(F x) { return _mm512_reduce_min_ps(x); }
  static float ReduceMax(F x) { return _mm512_reduce_max_ps(x); }
  static uint32_t ReduceAdd(I x) { return static_cast<uint32_t>(_mm512_reduce_add_epi32(x)); }
  static uint64_t ReduceAddWide(I x) {
    const I low = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(x));
    const I high = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(x, 1));
    return static_cast<uint64_t>(_mm512_reduce_add_epi64(_mm512_add_epi64(low, high)));
  }

#if defined(__AVX512VNNI__)
  static constexpr uint32_t kQuadWords = 1;
  static void PackQuad(const int8_t (&codes)[4], uint32_t* to) { __builtin_memcpy(to, codes, 4); }
  static I DotQuads(I sum, I x, const uint32_t* words) {
    // GCC 12 copies every sum twice around the intrinsic, and spills; the instruction itself does neither.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(BroadcastI(words[0])));
    return sum;
  }
#else
  // 16-bit pairs of the even and of the odd bytes: vpmaddubsw would saturate.
  static constexpr uint32_t kQuadWords = 2;
  static void PackQuad(const int8_t (&codes)[4], uint32_t* to) {
    const int16_t pairs[4] = {codes[0], codes[2], codes[1], codes[3]};
    __builtin_memcpy(to, pairs, sizeof(pairs));
  }
  static I DotQuads(I sum, I x, const uint32_t* words) {
    const I even = _mm512_and_si512(x, _mm512_set1_epi16(0xff));
    const I odd = _mm512_srli_epi16(x, 8);
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even, BroadcastI(words[0])));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(odd, BroadcastI(words[1])));
  }
#endif
  static I AddIfAtMost(I sum, I x, I y, I limit) {
    return _mm512_mask_add_epi32(sum, _mm512_cmple_epu32_mask(y, limit), sum, x);
  }
  static I ToFixed(F weight, float largest, float scale, uint32_t always) {
    const F positive = _mm512_max_ps(weight, _mm512_setzero_ps());
    const I fixed = _mm512_cvtps_epi32(_mm512_mul_ps(positive, _mm512_set1_ps(scale)));
    const __mmask16 is_number = _mm512_cmp_ps_mask(weight, _mm512_set1_ps(largest), _CMP_LE_OQ);
    return _mm512_mask_mov_epi32(BroadcastI(always), is_number, fixed);
  }
  // Compresses in a register: the compress that stores is microcode on Zen 4.
  static uint32_t* Compress(uint32_t first, uint32_t bits, uint32_t* to) {
    const I ids =
        _mm512_add_epi32(BroadcastI(first), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    StoreI(to, _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), ids));
    return to + __builtin_popcount(bits);
  }
  static float* CompressF(F x, uint32_t bits, float* to) {
    StoreF(to, _mm512_maskz_compress_ps(static_cast<__mmask16>(bits), x));
    return to + __builtin_popcount(bits);
  }

 private:
  static I CountTrue(I count, __mmask16 mask) {
    return _mm512_mask_add_epi32(count, mask, count, _mm512_set1_epi32(1));
  }
};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
