// Arrays on both sides, random numbers of any dtype, and the fixture that skips without a GPU.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/dtype.h"
#include "gpu_worker/device/cuda/kernels/launch.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary::gpu {

inline bool HasGpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

// Under compute-sanitizer a test runs some hundred times slower.
inline bool TestsAreSmall() { return std::getenv("TRIBUTARY_TEST_SMALL") != nullptr; }

inline void ExpectCudaOk(cudaError_t error) { ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error); }

// Device memory of T, filled with NaN bits first, so that what a kernel forgets to write is seen.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count), host_(count) {
    auto buffer = DeviceBuffer::Make(count * sizeof(T), "a test");
    TRIBUTARY_CHECK(buffer.ok());
    buffer_ = std::move(*buffer);
    TRIBUTARY_CHECK(cudaMemset(buffer_.data(), 0xff, count * sizeof(T)) == cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { Put(values); }

  void Put(const std::vector<T>& values) {
    TRIBUTARY_CHECK_EQ(values.size(), count_);
    const cudaError_t error = cudaMemcpy(buffer_.data(), values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice);
    TRIBUTARY_CHECK(error == cudaSuccess);
  }
  T* get() const { return buffer_.as<T>(); }
  size_t size() const { return count_; }
  // Waits for the GPU.
  const std::vector<T>& Fetch() {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const cudaError_t error = cudaMemcpy(host_.data(), buffer_.data(), count_ * sizeof(T), cudaMemcpyDeviceToHost);
    EXPECT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
    return host_;
  }

 private:
  size_t count_;
  std::vector<T> host_;
  DeviceBuffer buffer_;
};

// Numbers of a dtype on the device, and what they are in f32 after rounding.
struct TypedArray {
  TypedArray(DType type, std::vector<float> source) : dtype(type), bytes(0), values(source) {
    std::vector<std::byte> raw(source.size() * DTypeBytes(type));
    ConvertFromF32(type, source.data(), source.size(), raw.data());
    ConvertToF32(type, raw.data(), source.size(), values.data());
    bytes = DeviceArray<std::byte>(raw);
  }
  TypedArray(DType type, size_t count) : dtype(type), bytes(count * DTypeBytes(type)), values(count) {}

  const std::vector<float>& Fetch() {
    ConvertToF32(dtype, bytes.Fetch().data(), values.size(), values.data());
    return values;
  }
  void* get() const { return bytes.get(); }

  DType dtype;
  DeviceArray<std::byte> bytes;
  std::vector<float> values;
};

inline std::vector<float> RandomNormal(std::mt19937_64& random, size_t count, float scale = 1.0f) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// Half a unit in the last place of a stored number of this dtype, relative.
inline double RoundingOf(DType dtype) {
  return dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kBf16 ? 0x1p-8 : 0x1p-11;
}

class KernelTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!HasGpu()) GTEST_SKIP() << "no CUDA device on this machine";
    int major = 0;
    ExpectCudaOk(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    launch_.overlap = major >= 9;
    auto stream = CudaStream::Make(false);
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_ = std::move(*stream);
    launch_.stream = stream_.get();
  }

  const uint64_t seed_ = TestSeed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
  CudaStream stream_;
  Launch launch_;
};

}  // namespace tributary::gpu
