// A device on one NVIDIA GPU (compute capability 8.0 and up): same steps in the same order as its twin device/host.
//
// A whole decode step is one CUDA graph, launched by BeginStep(). Per layer the GPU writes q into mapped host memory,
// rings a flag there, attends over its resident KV meanwhile, waits (boundedly) until FinishLayer() rings it back,
// fetches the partials from partial_slots() itself, and merges them. So between layers the host launches, copies and
// synchronises nothing.
//
// This header needs no CUDA: a build without the toolkit has the same functions, which answer UNIMPLEMENTED.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/device/device.h"
#include "model/weights.h"

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

// Uploads the weights and reserves all memory. Beside CheckCudaDevice()'s errors: INVALID_ARGUMENT for limits that make
// no sense or a model shape that the kernels do not know; RESOURCE_EXHAUSTED, with what is needed and which flags lower
// it.
absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(std::shared_ptr<const ModelWeights> weights,
                                                       const DeviceLimits& limits, const CudaDeviceOptions& options);

}  // namespace tributary
