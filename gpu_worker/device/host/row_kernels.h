// The loops of attention and MLP over rows, and products with rows that are stored in 8, 16 or 32 bits: compiled once
// per instruction set from row_kernels-inl.h and stored_rows-inl.h (no intrinsics) and chosen at run time. Results
// differ between instruction sets in the last bits; on one machine they depend on nothing but the arguments.
#pragma once

#include <vector>

#include "base/dtype.h"
#include "gpu_worker/device/host/row_kernels_isa.h"
#include "model/model_config.h"

namespace tributary {

struct RowKernels : RowKernelFunctions {
  const char* name;  // "baseline", "avx2", "avx512"

  // gate[i] = what the activation makes of gate[i] and up[i]
  auto activate(Activation activation) const {
    if (activation == Activation::kClampedSwiglu) return clamped_swiglu;
    return activation == Activation::kSilu ? silu_mul : gelu_mul;
  }
  // REQUIRES: f32, bf16, f16 or int8.
  const StoredRowFunctions& stored_as(DType dtype) const;
};

// Those this machine can run, the best last; never empty. Thread-safe.
const std::vector<RowKernels>& SupportedRowKernels();
inline const RowKernels& BestRowKernels() { return SupportedRowKernels().back(); }

}  // namespace tributary
