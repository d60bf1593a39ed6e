#include "gpu_worker/device/cuda/runtime/cuda_status.h"

#include "fmt/format.h"

namespace tributary {

absl::Status StatusFromCuda(cudaError_t error, std::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  absl::StatusCode code = absl::StatusCode::kInternal;
  if (error == cudaErrorMemoryAllocation) code = absl::StatusCode::kResourceExhausted;
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver || error == cudaErrorSystemDriverMismatch ||
      error == cudaErrorDevicesUnavailable) {
    code = absl::StatusCode::kUnavailable;
  }
  return absl::Status(
      code, fmt::format("CUDA error {} ({}) in {}", cudaGetErrorName(error), cudaGetErrorString(error), what));
}

}  // namespace tributary
