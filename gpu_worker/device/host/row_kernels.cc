#include "gpu_worker/device/host/row_kernels.h"

#include "base/check.h"
#include "base/cpu_features.h"

namespace tributary {

const StoredRowFunctions& RowKernels::stored_as(DType dtype) const {
  switch (dtype) {
    case DType::kF32:
      return f32;
    case DType::kBf16:
      return bf16;
    case DType::kF16:
      return f16;
    default:
      TRIBUTARY_CHECK_EQ(static_cast<int>(dtype), static_cast<int>(DType::kInt8));
      return int8;
  }
}

const std::vector<RowKernels>& SupportedRowKernels() {
  static const std::vector<RowKernels>* kernels = [] {
    auto* list = new std::vector<RowKernels>;
    list->push_back({kRowKernelsBaseline, "baseline"});
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c()) {
      list->push_back({kRowKernelsAvx2, "avx2"});
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      list->push_back({kRowKernelsAvx512, "avx512"});
    }
#endif
    return list;
  }();
  return *kernels;
}

}  // namespace tributary
