#include "gpu_worker/device/cuda/kernels/gather_heads.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kThreads = 256;

// Unit: what one thread copies. blockIdx.y: K or V.
template <typename Unit>
__global__ void GatherHeadsKernel(const GatherHeadsArgs args) {
  BeginKernel();
  const uint32_t units = args.vector_bytes / sizeof(Unit);
  const size_t total = size_t{args.num_tokens} * args.num_heads * units;
  const size_t idx = size_t{blockIdx.x} * kThreads + threadIdx.x;
  if (idx >= total) return;
  const size_t unit = idx % units, vector = idx / units;
  const size_t head = vector % args.num_heads, token = vector / args.num_heads;
  const std::byte* from =
      args.from[blockIdx.y] + head * args.head_stride_bytes + token * args.vector_bytes + unit * sizeof(Unit);
  reinterpret_cast<Unit*>(args.out[blockIdx.y])[idx] = *reinterpret_cast<const Unit*>(from);
}

bool AllMultiplesOf16(const GatherHeadsArgs& args) {
  uintptr_t bits = args.vector_bytes | args.head_stride_bytes;
  for (int side = 0; side < 2; ++side) {
    bits |= reinterpret_cast<uintptr_t>(args.from[side]);
    bits |= reinterpret_cast<uintptr_t>(args.out[side]);
  }
  return bits % 16 == 0;
}

}  // namespace

cudaError_t PreloadGatherHeads() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, GatherHeadsKernel<uint4>);
  return error != cudaSuccess ? error : cudaFuncGetAttributes(&attributes, GatherHeadsKernel<uint16_t>);
}

cudaError_t GatherHeads(const GatherHeadsArgs& args, const Launch& launch) {
  if (args.vector_bytes == 0 || args.vector_bytes % 2 != 0 || args.num_tokens == 0 || args.num_heads == 0) {
    return cudaErrorInvalidValue;
  }
  const bool wide = AllMultiplesOf16(args);
  const size_t units = size_t{args.num_tokens} * args.num_heads * (args.vector_bytes / (wide ? 16 : 2));
  const size_t blocks = (units + kThreads - 1) / kThreads;
  if (blocks > 0x7fffffff) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<uint32_t>(blocks), 2);
  // Bytes: 2 x tokens x heads x vector_bytes, read and written. Ceiling: device memory.
  return wide ? LaunchKernel(launch, GatherHeadsKernel<uint4>, grid, kThreads, 0, args)
              : LaunchKernel(launch, GatherHeadsKernel<uint16_t>, grid, kThreads, 0, args);
}

}  // namespace tributary::gpu
