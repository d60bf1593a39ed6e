// RMSNorm of rows of the residual stream, with the addition that comes before it.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

// hidden += delta + delta_bias (each if there is one); normed = hidden / sqrt(mean(hidden^2) + eps) * weight.
struct RmsNormArgs {
  float* hidden = nullptr;            // [rows][hidden_size]; read only without delta and bias
  const void* delta = nullptr;        // [rows][hidden_size] of delta_dtype, or null
  DType delta_dtype = DType::kUnset;  // f32, bf16
  const float* delta_bias = nullptr;  // [hidden_size] or null
  const float* weight = nullptr;      // [hidden_size]; null: hidden is only converted
  float eps = 0;
  void* normed = nullptr;              // [rows][hidden_size] of normed_dtype; null: only the addition
  DType normed_dtype = DType::kUnset;  // f32, bf16, f16
  uint32_t rows = 0;
  uint32_t hidden_size = 0;
};
cudaError_t RmsNorm(const RmsNormArgs& args, const Launch& launch);

}  // namespace tributary::gpu
