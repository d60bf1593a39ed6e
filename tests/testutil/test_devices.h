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

enum class DeviceKind { kHost, kCuda };

inline std::string DeviceName(DeviceKind kind) {
  return kind == DeviceKind::kHost ? "host" : "cuda";
}

// Skips the test, saying why, where there is no such device. In a fixture's SetUp or a test's first line.
#define TRIBUTARY_SKIP_WITHOUT_DEVICE(kind)                                    \
  if (const absl::Status usable_ =                                             \
          (kind) == DeviceKind::kHost ? absl::OkStatus() : CheckCudaDevice(0); \
      !usable_.ok()) {                                                         \
    GTEST_SKIP() << std::string(usable_.message());                            \
  }                                                                            \
  static_assert(true, "")

// Computes in f32, whatever the model is stored in, so that all devices can be compared with one reference.
inline absl::StatusOr<std::unique_ptr<Device>> MakeTestDevice(
    DeviceKind kind, std::shared_ptr<const ModelWeights> weights, const DeviceLimits& limits,
    int num_threads = 2) {
  if (kind == DeviceKind::kHost) return MakeHostDevice(std::move(weights), limits, num_threads);
  CudaDeviceOptions options;
  options.compute_dtype = DType::kF32;
  return MakeCudaDevice(std::move(weights), limits, options);
}

}  // namespace tributary
