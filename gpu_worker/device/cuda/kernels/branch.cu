#include "gpu_worker/device/cuda/kernels/branch.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kThreads = 256;

// All threads; in f32: each thread's part, then the warps', each in a fixed order.
__device__ float SumOfBlock(float x) {
  __shared__ float warp_sums[kThreads / kWarpSize];
  x = WarpSum(x);
  if (threadIdx.x % kWarpSize == 0) warp_sums[threadIdx.x / kWarpSize] = x;
  __syncthreads();
  float sum = 0;
  for (uint32_t w = 0; w < kThreads / kWarpSize; ++w) sum += warp_sums[w];
  return sum;
}

__global__ void __launch_bounds__(kThreads) AddBranchKernel(const AddBranchArgs args) {
  BeginKernel();
  const size_t begin = size_t{blockIdx.x} * args.hidden_size;
  const auto value = [&](uint32_t i) { return args.branch[begin + i] + (args.bias == nullptr ? 0.0f : args.bias[i]); };
  float factor = 1.0f;
  if (args.weight != nullptr) {
    float squares = 0;
    for (uint32_t i = threadIdx.x; i < args.hidden_size; i += kThreads) squares += value(i) * value(i);
    factor = 1.0f / sqrtf(SumOfBlock(squares) / static_cast<float>(args.hidden_size) + args.eps);
  }
  for (uint32_t i = threadIdx.x; i < args.hidden_size; i += kThreads) {
    const float weight = args.weight == nullptr ? 1.0f : args.weight[i];
    args.hidden[begin + i] += args.scale * (value(i) * factor * weight);
  }
}

__global__ void __launch_bounds__(kThreads) NormaliseSpanKernel(const NormaliseSpanArgs args) {
  BeginKernel();
  float* const row = args.rows_base + size_t{blockIdx.x} * args.row_stride;
  float squares = 0;
  for (uint32_t i = threadIdx.x; i < args.size; i += kThreads) squares += row[i] * row[i];
  const float factor = 1.0f / sqrtf(SumOfBlock(squares) / static_cast<float>(args.size) + args.eps);
  for (uint32_t i = threadIdx.x; i < args.size; i += kThreads) row[i] *= factor * args.weight[i];
}

__global__ void FinishLogitsKernel(const FinishLogitsArgs args) {
  BeginKernel();
  const uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= args.count) return;
  const float logit = args.scale * args.logits[i];
  args.logits[i] = args.cap == 0.0f ? logit : args.cap * tanhf(logit / args.cap);
}

}  // namespace

cudaError_t AddBranch(const AddBranchArgs& args, const Launch& launch) {
  if (args.rows == 0 || args.hidden_size == 0) return cudaErrorInvalidValue;
  // Bytes: rows x hidden x (4 read, once more with a norm, 4 read and 4 written). Ceiling: a launch in decode, device
  // memory in prefill.
  return LaunchKernel(launch, AddBranchKernel, dim3(args.rows), kThreads, 0, args);
}

cudaError_t NormaliseSpan(const NormaliseSpanArgs& args, const Launch& launch) {
  if (args.rows == 0 || args.size == 0 || args.weight == nullptr) return cudaErrorInvalidValue;
  // Bytes: rows x size x (4 read twice, 4 written). Ceiling: as above.
  return LaunchKernel(launch, NormaliseSpanKernel, dim3(args.rows), kThreads, 0, args);
}

cudaError_t FinishLogits(const FinishLogitsArgs& args, const Launch& launch) {
  if (args.count == 0) return cudaErrorInvalidValue;
  const auto blocks = static_cast<uint32_t>((args.count + kThreads - 1) / kThreads);
  // Bytes: count x 8. Ceiling: a launch.
  return LaunchKernel(launch, FinishLogitsKernel, dim3(blocks), kThreads, 0, args);
}

}  // namespace tributary::gpu
