// y = W x for a few rows of x at the speed of reading W once. For more rows use a matrix product.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

inline constexpr uint32_t kMaxMatVecRows = 16;

enum class MatVecEpilogue : uint8_t {
  kStore,        // y = W x + bias
  kAddResidual,  // y += W x + bias; y is f32
  kSiluMul,      // W = [gate; up]: y[i] = silu(gate_i) * up_i, out / 2 of them; no bias
};

// Weights of bf16 and f16 are multiplied with x of the same dtype on tensor cores, f32 ones in f32; sums are f32.
struct MatVecArgs {
  const void* weights = nullptr;  // [out][in] of weight_dtype, 16-byte aligned
  DType weight_dtype = DType::kUnset;
  const void* x = nullptr;        // [rows][in] of weight_dtype, 16-byte aligned
  const float* bias = nullptr;    // [out] or null
  void* y = nullptr;              // [rows][out] (kSiluMul: [rows][out / 2]) of y_dtype
  DType y_dtype = DType::kUnset;  // f32, or weight_dtype
  uint32_t rows = 0;              // 1 to kMaxMatVecRows
  uint32_t in = 0;                // a multiple of 8
  uint32_t out = 0;
  MatVecEpilogue epilogue = MatVecEpilogue::kStore;
};
cudaError_t MatVec(const MatVecArgs& args, const Launch& launch);

}  // namespace tributary::gpu
