#include "gpu_worker/device/cuda/kernels/doorbell.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

__global__ void RingFlagKernel(const Ring ring) {
  BeginKernel();
  RingAfterLastBlock(ring, gridDim.x);
}

__global__ void AwaitFlagKernel(const Await await) {
  BeginKernel();
  (void)AwaitOneThread(await);
  __threadfence();
}

}  // namespace

cudaError_t RingFlag(const Ring& ring, const Launch& launch) {
  if (ring.flag == nullptr || ring.value == nullptr || ring.arrivals == nullptr) {
    return cudaErrorInvalidValue;
  }
  // Bytes: 4 over the bus. Ceiling: a launch and a write over the bus.
  return LaunchKernel(launch, RingFlagKernel, dim3(1), 1, 0, ring);
}

cudaError_t AwaitFlag(const Await& await, const Launch& launch) {
  if (await.flag == nullptr || await.value == nullptr || await.error == nullptr) {
    return cudaErrorInvalidValue;
  }
  // Bytes: 8 over the bus for each look. Ceiling: the host, then a read over the bus.
  return LaunchKernel(launch, AwaitFlagKernel, dim3(1), 1, 0, await);
}

}  // namespace tributary::gpu
