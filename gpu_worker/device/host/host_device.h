// The plain twin of the CUDA device: everything in f32 on the host's cores, over weights and KV as they are stored.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/host/weight_dtype.h"
#include "model/weights.h"

namespace tributary {

// Reads the weights from the file's map and reserves the resident pool. `num_threads` includes the calling
// thread; results do not depend on it. INVALID_ARGUMENT for limits that make no sense;
// RESOURCE_EXHAUSTED when weights, pool and the longest prefill together exceed the machine's
// memory; UNAVAILABLE if OpenBLAS cannot be loaded. Loads it at the first call (blas_library.h).
absl::StatusOr<std::unique_ptr<Device>> MakeHostDevice(std::shared_ptr<const ModelWeights> weights,
                                                       const DeviceLimits& limits, int num_threads,
                                                       WeightDType weight_dtype = WeightDType::kStored);

}  // namespace tributary
