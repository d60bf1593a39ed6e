#include "gpu_worker/device/cuda/kernels/norm.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kVectors = 4;  // of 4 elements, in the registers of a thread

// All threads; in f32: each thread's part, then the warps', each in a fixed order.
__device__ float BlockSum(float x) {
  __shared__ float warp_sums[kMaxThreads / kWarpSize];
  x = WarpSum(x);
  if (threadIdx.x % kWarpSize == 0) warp_sums[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  float sum = 0;
  for (uint32_t w = 0; w < blockDim.x / kWarpSize; ++w) sum += warp_sums[w];
  return sum;
}

__device__ float NormFactor(float squares, uint32_t size, float eps) {
  return 1.0f / sqrtf(BlockSum(squares) / static_cast<float>(size) + eps);
}

// hidden[i] with what is added to it; begin: the row's first element.
__device__ float Added(const RmsNormArgs& args, size_t begin, uint32_t i, float x) {
  if (args.delta != nullptr) x += LoadAs(args.delta, args.delta_dtype, begin + i);
  if (args.delta_bias != nullptr) x += args.delta_bias[i];
  return x;
}

// One block for each row, which it holds in registers. REQUIRES: hidden_size a multiple of 4, at most 16 for each
// thread.
__global__ void __launch_bounds__(kMaxThreads) RmsNormInRegistersKernel(const RmsNormArgs args) {
  BeginKernel();
  const size_t begin = size_t{blockIdx.x} * args.hidden_size;
  auto* const hidden = reinterpret_cast<float4*>(args.hidden + begin);
  const auto* const weight = reinterpret_cast<const float4*>(args.weight);
  const uint32_t vectors = args.hidden_size / 4;
  const bool adds = args.delta != nullptr || args.delta_bias != nullptr;
  float4 x[kVectors];
  float squares = 0;
#pragma unroll
  for (uint32_t j = 0; j < kVectors; ++j) {
    const uint32_t i = threadIdx.x + j * blockDim.x;
    x[j] = i < vectors ? hidden[i] : float4{};
  }
#pragma unroll
  for (uint32_t j = 0; j < kVectors; ++j) {
    const uint32_t i = threadIdx.x + j * blockDim.x;
    if (adds && i < vectors) {
      x[j] = {Added(args, begin, 4 * i, x[j].x), Added(args, begin, 4 * i + 1, x[j].y),
              Added(args, begin, 4 * i + 2, x[j].z), Added(args, begin, 4 * i + 3, x[j].w)};
      hidden[i] = x[j];
    }
    squares += x[j].x * x[j].x + x[j].y * x[j].y + x[j].z * x[j].z + x[j].w * x[j].w;
  }
  const float factor = NormFactor(squares, args.hidden_size, args.eps);
#pragma unroll
  for (uint32_t j = 0; j < kVectors; ++j) {
    const uint32_t i = threadIdx.x + j * blockDim.x;
    if (i >= vectors) continue;
    const float4 w = weight[i];
    Store4As(args.normed, args.normed_dtype, begin + 4 * i,
             {x[j].x * factor * w.x, x[j].y * factor * w.y, x[j].z * factor * w.z, x[j].w * factor * w.w});
  }
}

// Any size; also for the addition alone, and without a weight.
__global__ void __launch_bounds__(kMaxThreads) RmsNormKernel(const RmsNormArgs args) {
  BeginKernel();
  const size_t begin = size_t{blockIdx.x} * args.hidden_size;
  float* const hidden = args.hidden + begin;
  const bool adds = args.delta != nullptr || args.delta_bias != nullptr;
  float squares = 0;
  for (uint32_t i = threadIdx.x; i < args.hidden_size; i += blockDim.x) {
    const float x = Added(args, begin, i, hidden[i]);
    if (adds) hidden[i] = x;
    squares += x * x;
  }
  if (args.normed == nullptr) return;
  const float factor = args.weight == nullptr ? 1.0f : NormFactor(squares, args.hidden_size, args.eps);
  for (uint32_t i = threadIdx.x; i < args.hidden_size; i += blockDim.x) {
    const float weight = args.weight == nullptr ? 1.0f : args.weight[i];
    StoreAs(args.normed, args.normed_dtype, begin + i, hidden[i] * factor * weight);
  }
}

}  // namespace

cudaError_t RmsNorm(const RmsNormArgs& args, const Launch& launch) {
  if (args.rows == 0 || args.hidden_size == 0 || (args.normed != nullptr && !IsFloatDType(args.normed_dtype)) ||
      (args.delta != nullptr && !IsFloatDType(args.delta_dtype))) {
    return cudaErrorInvalidValue;
  }
  const uint32_t per_thread = 4 * kVectors;
  if (args.normed != nullptr && args.weight != nullptr && args.hidden_size % 4 == 0 &&
      args.hidden_size <= kMaxThreads * per_thread) {
    const uint32_t threads = CeilDiv(args.hidden_size, per_thread * kWarpSize) * kWarpSize;
    // Bytes: rows x hidden x (4 read, 4 written if it adds, delta dtype read, normed dtype written) + weight. Ceiling:
    // a launch in decode, device memory in prefill.
    return LaunchKernel(launch, RmsNormInRegistersKernel, dim3(args.rows), threads, 0, args);
  }
  // Bytes: as above, hidden read twice. Ceiling: as above.
  return LaunchKernel(launch, RmsNormKernel, dim3(args.rows), kMaxThreads / 2, 0, args);
}

}  // namespace tributary::gpu
