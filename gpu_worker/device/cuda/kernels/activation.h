// The gate's activation times up, after the gate and up products of an MLP.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

// As model/model_config.h has them.
enum class GateActivation : uint8_t { kSilu, kGeluTanh, kClampedSwiglu };

// out[r][i] = what the activation makes of gate_up[r][i] and gate_up[r][intermediate + i].
struct GateMulArgs {
  GateActivation activation = GateActivation::kSilu;
  const void* gate_up = nullptr;    // [rows][2 * intermediate] of dtype
  void* out = nullptr;              // [rows][intermediate] of out_dtype; not gate_up
  DType dtype = DType::kUnset;      // f32, bf16
  DType out_dtype = DType::kUnset;  // f32, bf16, f16
  uint32_t rows = 0;
  uint32_t intermediate = 0;
};
cudaError_t GateMul(const GateMulArgs& args, const Launch& launch);

}  // namespace tributary::gpu
