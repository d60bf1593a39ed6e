// Primitives of block selection over one element: every CPU. Each select_lanes_*.h has the same names in a namespace of
// its own:
//
//   F, I                  vectors of kLanes floats and 32-bit integers; kVectors vectors of blocks share a query word
//   CountNotLess(c, x, t) c + 1 in lanes where not (x < t): NaN counts. CountNan: where x is NaN
//   NotLess, NotLessEqual, Equal   a bit per lane
//   MinNumber(x, low)     low where x is NaN; MaxFinite(x, high): high where x is NaN or infinite
//   MaxOrNan(a, b)        NaN if either is
//   PackQuad(codes, to)   four int8 codes of a query as the kQuadWords words that DotQuads takes
//   DotQuads(s, x, words) s + the products of each lane's four unsigned bytes with the four codes, exact
//   AddIfAtMost(s, x, y, limit)  s + x where y <= limit, unsigned
//   ToFixed(w, largest, scale, always)  round(max(w, 0) * scale), `always` where not (w <= largest)
//   Compress(first, bits, to)    writes first + i for each set bit i, ascending; returns the new end. May write up to
//                                kSelectSlack words beyond it. CompressF(x, bits, to): the lanes themselves
//   CompressVectors(first, x, bits, ids, to)  both, of kVectors vectors whose bits lie one behind the other
//   DotCodes(x, q, bytes, sum, dims)  int8 x times int8 q, which comes as 16-bit codes, as bytes, and with their sum
#pragma once

#include <math.h>

#include <cstdint>

namespace tributary {
namespace scalar {
namespace {

struct Lanes {
  using F = float;
  using I = uint32_t;
  static constexpr uint32_t kLanes = 1;
  static constexpr uint32_t kVectors = 1;
  static constexpr uint32_t kQuadWords = 1;

  static F BroadcastF(float x) { return x; }
  static F LoadF(const float* from) { return *from; }
  static void StoreF(float* to, F x) { *to = x; }
  static I ZeroI() { return 0; }
  static I BroadcastI(uint32_t x) { return x; }
  static I LoadI(const void* from) {
    I x;
    __builtin_memcpy(&x, from, sizeof(x));
    return x;
  }
  static void StoreI(uint32_t* to, I x) { *to = x; }

  static I AddI(I a, I b) { return a + b; }
  static I SubI(I a, I b) { return a - b; }
  static I AndI(I a, I b) { return a & b; }
  template <uint32_t kBits>
  static I ShiftRight(I x) {
    return x >> kBits;
  }
  static F SubF(F a, F b) { return a - b; }
  static F MulF(F a, F b) { return a * b; }
  static F MulAdd(F a, F b, F c) { return __builtin_fmaf(a, b, c); }
  static F ToFloat(I x) { return static_cast<float>(static_cast<int32_t>(x)); }
  static F LowBf16(I x) { return AsFloat(x << 16); }
  static F HighBf16(I x) { return AsFloat(x & 0xffff0000u); }

  static I CountNotLess(I count, F x, F limit) { return count + !(x < limit); }
  static I CountNan(I count, F x) { return count + (x != x); }
  static uint32_t NotLess(F x, F limit) { return !(x < limit); }
  static uint32_t NotLessEqual(F x, F limit) { return !(x <= limit); }
  static uint32_t Equal(F x, F y) { return x == y; }
  static uint32_t Greater(I x, I y) { return x > y; }
  static uint32_t EqualI(I x, I y) { return x == y; }
  static F MinNumber(F x, F low) { return x < low ? x : low; }
  static F MaxNumber(F x, F high) { return x > high ? x : high; }
  static F MaxFinite(F x, F high) { return x > high && x < INFINITY ? x : high; }
  static F MaxOrNan(F a, F b) { return a != a || a > b ? a : b; }
  static float ReduceMin(F x) { return x; }
  static float ReduceMax(F x) { return x; }
  static uint32_t ReduceAdd(I x) { return x; }
  static uint64_t ReduceAddWide(I x) { return x; }

  static void PackQuad(const int8_t (&codes)[4], uint32_t* to) { __builtin_memcpy(to, codes, 4); }
  static I DotQuads(I sum, I x, const uint32_t* words) {
    for (uint32_t i = 0; i < 4; ++i) {
      const auto code = static_cast<int8_t>(*words >> (8 * i));
      sum += static_cast<uint32_t>(static_cast<int32_t>((x >> (8 * i)) & 0xff) * code);
    }
    return sum;
  }
  static I AddIfAtMost(I sum, I x, I y, I limit) { return y <= limit ? sum + x : sum; }
  static I ToFixed(F weight, float largest, float scale, uint32_t always) {
    if (!(weight <= largest)) return always;
    return static_cast<uint32_t>(lrintf((weight > 0 ? weight : 0.0f) * scale));
  }
  static uint32_t* Compress(uint32_t first, uint32_t /*bits*/, uint32_t* to) {
    *to = first;
    return to + 1;
  }
  static float* CompressF(F x, uint32_t /*bits*/, float* to) {
    *to = x;
    return to + 1;
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
  static float AsFloat(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, sizeof(x));
    return x;
  }
};

}  // namespace
}  // namespace scalar
}  // namespace tributary
