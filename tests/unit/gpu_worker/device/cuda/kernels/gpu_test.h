// What tests of kernels share: skipping without a GPU, and arrays that are copied to it and back.
#pragma once

#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "base/check.h"
#include "cuda_runtime_api.h"
#include "gpu_worker/device/cuda/cuda_device.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"
#include "gtest/gtest.h"

namespace tributary {

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status status = CheckCudaDevice(0); !status.ok()) {
      GTEST_SKIP() << std::string(status.message());
    }
    ASSERT_EQ(cudaSetDevice(0), cudaSuccess);
  }
};

// Under compute-sanitizer kernels are a hundred times slower: a few small cases do.
inline bool SmallCasesOnly() { return std::getenv("TRIBUTARY_TEST_SMALL") != nullptr; }

// Device memory with these bytes.
inline DeviceBuffer Upload(std::span<const std::byte> bytes) {
  absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Make(bytes.size(), "a test");
  TRIBUTARY_CHECK(buffer.ok());
  TRIBUTARY_CHECK(cudaMemcpy(buffer->data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice) == cudaSuccess);
  return *std::move(buffer);
}
// Device memory full of NaN, whatever the dtype.
inline DeviceBuffer Poisoned(size_t bytes) { return Upload(std::vector<std::byte>(bytes, std::byte{0xff})); }
inline std::vector<std::byte> Download(const DeviceBuffer& buffer) {
  std::vector<std::byte> bytes(buffer.bytes());
  TRIBUTARY_CHECK(cudaMemcpy(bytes.data(), buffer.data(), bytes.size(), cudaMemcpyDeviceToHost) == cudaSuccess);
  return bytes;
}

}  // namespace tributary
