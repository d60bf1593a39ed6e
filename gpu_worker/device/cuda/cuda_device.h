// A device on one NVIDIA GPU (compute capability 8.0 and up): same steps in the same order as its twin device/host.
//
// A whole decode step is one CUDA graph, launched by BeginStep(). Per layer the GPU writes q into mapped host memory,
// rings a flag there, attends over its resident KV meanwhile, waits (boundedly) until FinishLayer() rings it back,
// fetches the partials from partial_slots() itself, and merges them. So between layers the host launches, copies and
// synchronises nothing.
//
// This header needs no CUDA: a build without the toolkit has the same functions, which answer UNIMPLEMENTED.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/runtime/cuda_gpu.h"
#include "gpu_worker/device/device.h"
#include "model/weights.h"

namespace tributary {

// Uploads the weights and reserves all memory. Beside CheckCudaDevice()'s errors: INVALID_ARGUMENT for limits that make
// no sense or a model shape that the kernels do not know; RESOURCE_EXHAUSTED, with what is needed and which flags lower
// it.
absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(std::shared_ptr<const ModelWeights> weights,
                                                       const DeviceLimits& limits, const CudaDeviceOptions& options);

}  // namespace tributary
