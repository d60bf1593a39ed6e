// The body of the row kernels, included by one .cc file per instruction set, which defines
// TRIBUTARY_ROW_KERNELS_NAMESPACE. It calls no inline function of another header: the linker could
// pick a copy built for a machine that this one is not.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu_worker/device/host/row_kernels_isa.h"
#include "gpu_worker/device/host/stored_rows-inl.h"

namespace tributary::TRIBUTARY_ROW_KERNELS_NAMESPACE {

// e^x for x clamped to [-87, 88], within 2 ulp. x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the
// polynomial of Cephes' expf; 2^n by writing the exponent. NaN stays NaN.
static inline float Exp(float x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;  // 9 bits: n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * kLog2E + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float e_r = p * (r * r) + r + 1.0f;
  const uint32_t exponent = (__builtin_bit_cast(uint32_t, shifted) + 127u) << 23;
  return e_r * __builtin_bit_cast(float, exponent);
}

static float RowMax(const float* row, size_t count, float start, float scale) {
  float max = start;
#pragma omp simd reduction(max : max)
  for (size_t i = 0; i < count; ++i) {
    const float value = row[i] * scale;
    max = max > value ? max : value;
  }
  return max;
}

static float ExpRow(float* row, size_t count, float scale, float max) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (size_t i = 0; i < count; ++i) {
    const float p = Exp(row[i] * scale - max);
    row[i] = p;
    sum += p;
  }
  return sum;
}

// tanh: near 0 the polynomial of Cephes' tanhf, elsewhere from e^(-2|x|). NaN stays NaN.
static inline float Tanh(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  const float size = x < 0.0f ? -x : x;
  const float e = Exp(-2.0f * size);
  const float large = (1.0f - e) / (1.0f + e);
  return size < 0.625f ? small : x < 0.0f ? -large : large;
}

static void CapRow(float* row, size_t count, float scale, float cap) {
#pragma omp simd
  for (size_t i = 0; i < count; ++i) row[i] = cap * Tanh(row[i] * scale / cap);
}

static void OnlineSoftmax(const OnlineSoftmaxArgs& args) {
  for (size_t i = 0; i < args.rows; ++i) {
    float* row = args.scores + i * args.ld;
    const ptrdiff_t sees = args.first_row_visible + static_cast<ptrdiff_t>(i);
    const size_t cut = sees < 0 ? 0 : static_cast<size_t>(sees);
    const size_t visible = cut < args.cols ? cut : args.cols;
    const ptrdiff_t hides = args.first_row_hidden + static_cast<ptrdiff_t>(i);
    const size_t skipped = hides < 0 ? 0 : static_cast<size_t>(hides);
    const size_t begin = skipped < visible ? skipped : visible;
    for (size_t j = 0; j < begin; ++j) row[j] = 0.0f;
    for (size_t j = visible; j < args.cols; ++j) row[j] = 0.0f;
    if (begin == visible) continue;  // an empty row has no maximum
    if (args.soft_cap != 0.0f) CapRow(row + begin, visible - begin, args.scale, args.soft_cap);
    const float scale = args.soft_cap != 0.0f ? 1.0f : args.scale;
    const float old_max = args.max[i];
    const float max = RowMax(row + begin, visible - begin, old_max, scale);
    const float keep = old_max == -__builtin_inff() ? 0.0f : Exp(old_max - max);
    args.max[i] = max;
    args.sum[i] = args.sum[i] * keep + ExpRow(row + begin, visible - begin, scale, max);
    if (keep == 1.0f) continue;
    float* out = args.out + i * args.head_dim;
#pragma omp simd
    for (size_t d = 0; d < args.head_dim; ++d) out[d] *= keep;
  }
}

static void SiluMul(float* gate, const float* up, size_t count) {
#pragma omp simd
  for (size_t i = 0; i < count; ++i) gate[i] = gate[i] / (1.0f + Exp(-gate[i])) * up[i];
}

// tanh form of GELU: x (1 + tanh u) / 2 = x / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3).
static void GeluMul(float* gate, const float* up, size_t count) {
#pragma omp simd
  for (size_t i = 0; i < count; ++i) {
    const float x = gate[i];
    const float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    gate[i] = x / (1.0f + Exp(-2.0f * u)) * up[i];
  }
}

static void ClampedSwiglu(float* gate, const float* up, size_t count) {
  constexpr float kLimit = 7.0f;
#pragma omp simd
  for (size_t i = 0; i < count; ++i) {
    const float g = gate[i] > kLimit ? kLimit : gate[i];
    const float high = up[i] > kLimit ? kLimit : up[i];
    const float u = high < -kLimit ? -kLimit : high;
    gate[i] = g / (1.0f + Exp(-1.702f * g)) * (u + 1.0f);
  }
}

static constexpr RowKernelFunctions kFunctions = {.online_softmax = OnlineSoftmax,
                                                  .silu_mul = SiluMul,
                                                  .gelu_mul = GeluMul,
                                                  .clamped_swiglu = ClampedSwiglu,
                                                  .f32 = kStoredRowFunctions<F32>,
                                                  .bf16 = kStoredRowFunctions<Bf16>,
                                                  .f16 = kStoredRowFunctions<F16>,
                                                  .int8 = kStoredRowFunctions<Int8>};

}  // namespace tributary::TRIBUTARY_ROW_KERNELS_NAMESPACE
