#include "gpu_worker/device/cuda/kernels/device_common.cuh"
#include "gpu_worker/device/cuda/kernels/norm.h"

namespace tributary::gpu {
namespace {

constexpr uint32_t kMaxThreads = 512;

// One block for each row. Sums in f32: each thread adds few numbers, then a tree.
__global__ void RmsNormKernel(const RmsNormArgs args) {
  BeginKernel();
  __shared__ float warp_sums[kMaxThreads / kWarpSize];
  const size_t begin = size_t{blockIdx.x} * args.hidden_size;
  float* hidden = args.hidden + begin;
  const bool adds = args.delta != nullptr || args.delta_bias != nullptr;
  float squares = 0;
  for (uint32_t i = threadIdx.x; i < args.hidden_size; i += blockDim.x) {
    float x = hidden[i];
    if (args.delta != nullptr) x += LoadAs(args.delta, args.delta_dtype, begin + i);
    if (args.delta_bias != nullptr) x += args.delta_bias[i];
    if (adds) hidden[i] = x;
    squares += x * x;
  }
  if (args.normed == nullptr) return;
  squares = WarpSum(squares);
  if (threadIdx.x % kWarpSize == 0) warp_sums[threadIdx.x / kWarpSize] = squares;
  __syncthreads();
  float sum = 0;
  for (uint32_t w = 0; w < blockDim.x / kWarpSize; ++w) sum += warp_sums[w];
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(args.hidden_size) + args.eps);
  for (uint32_t i = threadIdx.x; i < args.hidden_size; i += blockDim.x) {
    StoreAs(args.normed, args.normed_dtype, begin + i, hidden[i] * factor * args.weight[i]);
  }
}

}  // namespace

cudaError_t RmsNorm(const RmsNormArgs& args, const Launch& launch) {
  if (args.rows == 0 || args.hidden_size == 0 ||
      (args.normed != nullptr && !IsFloatDType(args.normed_dtype)) ||
      (args.delta != nullptr && !IsFloatDType(args.delta_dtype))) {
    return cudaErrorInvalidValue;
  }
  const uint32_t threads = args.hidden_size >= 1024 ? kMaxThreads : 128;
  return LaunchKernel(launch, RmsNormKernel, dim3(args.rows), threads, 0, args);
}

}  // namespace tributary::gpu
