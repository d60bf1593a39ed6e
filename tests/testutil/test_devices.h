// Every kind of device that this machine can run, for tests of what all devices have in common.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "base/check.h"
#include "gpu_worker/device/cuda/cuda_device.h"
#include "gpu_worker/device/host/host_device.h"
#include "gtest/gtest.h"

namespace tributary {

// kCuda computes in f32, so that it can be compared with the same references as the host; kCudaAsStored in the model's
// dtype, as users run it.
enum class DeviceKind { kHost, kCuda, kCudaAsStored };

inline std::string DeviceName(DeviceKind kind) {
  return kind == DeviceKind::kHost ? "host" : kind == DeviceKind::kCuda ? "cuda" : "cuda_as_stored";
}

// Skips the test, saying why, where there is no such device. In a fixture's SetUp or a test's first line.
#define TRIBUTARY_SKIP_WITHOUT_DEVICE(kind)                                                             \
  if (const absl::Status usable_ = (kind) == DeviceKind::kHost ? absl::OkStatus() : CheckCudaDevice(0); \
      !usable_.ok()) {                                                                                  \
    GTEST_SKIP() << std::string(usable_.message());                                                     \
  }                                                                                                     \
  static_assert(true, "")

inline absl::StatusOr<std::unique_ptr<Device>> MakeTestDevice(DeviceKind kind,
                                                              std::shared_ptr<const ModelWeights> weights,
                                                              const DeviceLimits& limits, int num_threads = 2) {
  if (kind == DeviceKind::kHost) return MakeHostDevice(std::move(weights), limits, num_threads);
  CudaDeviceOptions options;
  options.max_wait_ns = 2'000'000'000;  // a GPU that waits for us in vain fails its test soon
  if (kind == DeviceKind::kCuda) options.compute_dtype = DType::kF32;
  return MakeCudaDevice(std::move(weights), limits, options);
}

}  // namespace tributary
