#include "gpu_worker/device/host/row_kernels.h"

namespace tributary {

const std::vector<RowKernels>& SupportedRowKernels() {
  static const std::vector<RowKernels>* kernels = [] {
    auto* list = new std::vector<RowKernels>;
    list->push_back({kRowKernelsBaseline, "baseline"});
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
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
