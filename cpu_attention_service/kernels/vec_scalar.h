// One float at a time: the plain version of the primitives (see vec_avx512.h for their meaning),
// for any machine.
#pragma once

#include <math.h>

#include <cstdint>
#include <cstring>

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

inline float FloatFromBits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float FloatFromF16(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 0x1f;
  const uint32_t fraction = half & 0x3ff;
  if (exponent == 0x1f) return FloatFromBits(sign | 0x7f800000u | (fraction << 13));
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24, exact in f32
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return FloatFromBits(sign | ((exponent + 112) << 23) | (fraction << 13));
}

struct Vec {
  static constexpr uint32_t kLanes = 1;
  float lane;

  static Vec Zero() { return {0.0f}; }
  static Vec Broadcast(float value) { return {value}; }
  static Vec Load(const float* from) { return {*from}; }
  void Store(float* to) const { *to = lane; }
  static Vec LoadLowBf16(const void* from) {
    uint32_t pair;
    memcpy(&pair, from, sizeof(pair));
    return {FloatFromBits(pair << 16)};
  }
  static Vec LoadHighBf16(const void* from) {
    uint32_t pair;
    memcpy(&pair, from, sizeof(pair));
    return {FloatFromBits(pair & 0xffff0000u)};
  }
  static Vec LoadF16(const uint16_t* from) { return {FloatFromF16(*from)}; }
};

inline Vec Add(Vec a, Vec b) { return {a.lane + b.lane}; }
inline Vec Sub(Vec a, Vec b) { return {a.lane - b.lane}; }
inline Vec Mul(Vec a, Vec b) { return {a.lane * b.lane}; }
inline Vec MulAdd(Vec a, Vec b, Vec c) { return {a.lane * b.lane + c.lane}; }
inline Vec Max(Vec a, Vec b) { return {a.lane > b.lane ? a.lane : b.lane}; }
inline Vec Div(Vec a, Vec b) { return {a.lane / b.lane}; }
inline Vec Abs(Vec a) { return {fabsf(a.lane)}; }
inline Vec Blend(uint32_t bits, Vec a, Vec b) { return (bits & 1) != 0 ? a : b; }
inline Vec IfLess(Vec a, Vec b, Vec x, Vec y) { return a.lane < b.lane ? x : y; }
inline bool AnyGreater(Vec a, Vec b) { return a.lane > b.lane; }
inline Vec Exp2(Vec x) { return {exp2f(x.lane)}; }
inline float ReduceAdd(Vec x) { return x.lane; }
inline float ReduceMax(Vec x) { return x.lane; }

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
