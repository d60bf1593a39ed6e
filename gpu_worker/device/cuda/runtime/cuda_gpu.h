// Which GPU a CUDA device is on, how it computes there, and whether that GPU can be used.
//
// This header needs no CUDA: a build without the toolkit has the same functions, which answer UNIMPLEMENTED.
#pragma once

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/dtype.h"

namespace tributary {

struct CudaDeviceOptions {
  int ordinal = 0;  // which GPU
  // Dtype of the matrices and of what they are multiplied with; kUnset: as the model stores them. kF32 is for comparing
  // with the host device: twice the memory of bf16 and half the speed.
  DType compute_dtype = DType::kUnset;
  // A row's results do not depend on the other rows of its batch, bit for bit; large batches are slower.
  bool deterministic = false;
  // How long the GPU waits in a layer for the host's partials before it gives the step up. A safety net against a host
  // that has stopped: the host itself fails rows at the step's deadline, at most limits::kMaxStepTimeoutMs.
  int64_t max_wait_ns = int64_t{60} * 1'000'000'000;
};

// "cuda" is GPU 0, "cuda:N" is GPU N. INVALID_ARGUMENT for anything else.
absl::StatusOr<int> ParseCudaOrdinal(std::string_view device);

// OK if MakeCudaDevice() can use this GPU. UNIMPLEMENTED without CUDA in the build; UNAVAILABLE without a driver or a
// GPU, or with a driver that is too old; NOT_FOUND for an ordinal that there is not; FAILED_PRECONDITION for a GPU that
// is too old. Each says what to do.
absl::Status CheckCudaDevice(int ordinal);

}  // namespace tributary
