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
  // The unsigned operand is x + 128. May read up to 63 bytes beyond x, where `bytes` is 0.
  static int32_t DotCodes(const int8_t* x, const int16_t* /*q*/, const int8_t* bytes, int32_t sum, uint32_t dims) {
    I dot = ZeroI();
    for (uint32_t dim = 0; dim < dims; dim += 64) {
      const I raised = _mm512_xor_si512(LoadI(x + dim), _mm512_set1_epi8(static_cast<char>(0x80)));
      dot = _mm512_dpbusd_epi32(dot, raised, LoadI(bytes + dim));
    }
    return _mm512_reduce_add_epi32(dot) - 128 * sum;
  }
#else
  static int32_t DotCodes(const int8_t* x, const int16_t* q, const int8_t* /*bytes*/, int32_t /*sum*/, uint32_t dims) {
    int32_t dot = 0;
    for (uint32_t dim = 0; dim < dims; ++dim) dot += x[dim] * q[dim];
    return dot;
  }
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
#if defined(__AVX512VBMI2__)
  // All four at once: which lanes as bytes, then 16 of them at a time as ids and as places of scores.
  static void CompressVectors(uint32_t first, const F (&x)[kVectors], uint64_t bits, uint32_t* ids, float* to) {
    static_assert(kVectors == 4);
    alignas(64) static constexpr uint8_t kPlaces[64] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                                        16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                                        32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47,
                                                        48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63};
    I places = _mm512_maskz_compress_epi8(bits, LoadI(kPlaces));
    const int count = __builtin_popcountll(bits);
    for (int done = 0; done < count; done += static_cast<int>(kLanes)) {
      const I place = _mm512_cvtepu8_epi32(_mm512_castsi512_si128(places));
      const F low = _mm512_permutex2var_ps(x[0], place, x[1]), high = _mm512_permutex2var_ps(x[2], place, x[3]);
      StoreI(ids + done, _mm512_add_epi32(place, BroadcastI(first)));
      StoreF(to + done, _mm512_mask_mov_ps(low, _mm512_test_epi32_mask(place, BroadcastI(32)), high));
      places = _mm512_alignr_epi64(_mm512_setzero_si512(), places, 2);
    }
  }
#else
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
#endif

 private:
  static I CountTrue(I count, __mmask16 mask) {
    return _mm512_mask_add_epi32(count, mask, count, _mm512_set1_epi32(1));
  }
};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
