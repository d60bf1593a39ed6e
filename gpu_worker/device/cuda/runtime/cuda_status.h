// CUDA's error codes as absl::Status.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "cuda_runtime_api.h"

namespace tributary {

// OK for cudaSuccess. RESOURCE_EXHAUSTED without memory, UNAVAILABLE without driver or GPU, else INTERNAL: such an
// error is often sticky, and the process has to start again. `what` says what was tried.
absl::Status StatusFromCuda(cudaError_t error, std::string_view what);

}  // namespace tributary

#define TRIBUTARY_RETURN_IF_CUDA_ERROR(expression)                        \
  do {                                                                    \
    if (const cudaError_t error_ = (expression); error_ != cudaSuccess) { \
      return ::tributary::StatusFromCuda(error_, #expression);            \
    }                                                                     \
  } while (false)
