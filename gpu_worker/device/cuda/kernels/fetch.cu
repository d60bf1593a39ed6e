#include "gpu_worker/device/cuda/kernels/device_common.cuh"
#include "gpu_worker/device/cuda/kernels/fetch.h"

namespace tributary::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kLoadsInFlight = 4;
// All must be on the GPU at once: they wait for block 0.
constexpr uint32_t kMaxBlocks = 64;

__device__ uint32_t LoadAcquireGpu(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ void StoreReleaseGpu(uint32_t* address, uint32_t value) {
  asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

// Block 0 waits for the host and says how many slots each row has; the others wait for block 0.
__device__ void AwaitHost(const FetchArgs& args) {
  if (blockIdx.x == 0) {
    if (threadIdx.x == 0) AwaitOneThread(args.await);
    __syncthreads();
    for (uint32_t r = threadIdx.x; r < args.num_rows; r += kThreads) {
      args.num_slots[r] = min(__ldcv(args.host_num_slots + r), args.max_slots);
    }
    __syncthreads();
    if (threadIdx.x == 0) StoreReleaseGpu(args.go, *args.await.value);
  } else if (threadIdx.x == 0) {
    while (LoadAcquireGpu(args.go) != *args.await.value) {
    }
  }
  __syncthreads();
}

// Of each row's max_slots slots of `slot_items` items of T, the first num_slots[row].
template <typename T>
__device__ void CopySlots(const T* from, T* to, uint32_t slot_items, const FetchArgs& args) {
  const uint32_t row_items = slot_items * args.max_slots;
  const uint32_t items = row_items * args.num_rows;
  const uint32_t stride = gridDim.x * kThreads;
  for (uint32_t begin = blockIdx.x * kThreads + threadIdx.x; begin < items;
       begin += stride * kLoadsInFlight) {
    T item[kLoadsInFlight];
    bool wanted[kLoadsInFlight];
#pragma unroll
    for (uint32_t j = 0; j < kLoadsInFlight; ++j) {
      const uint32_t i = begin + j * stride;
      wanted[j] = i < items && i % row_items < args.num_slots[i / row_items] * slot_items;
      if (wanted[j]) item[j] = __ldcv(from + i);
    }
#pragma unroll
    for (uint32_t j = 0; j < kLoadsInFlight; ++j) {
      if (wanted[j]) to[begin + j * stride] = item[j];
    }
  }
}

__global__ void __launch_bounds__(kThreads) FetchKernel(const FetchArgs args) {
  BeginKernel();
  AwaitHost(args);
  const uint32_t heads = args.geometry.num_q_heads;
  const uint32_t slot_floats = heads * args.geometry.head_dim;
  if (slot_floats % 4 == 0) {
    CopySlots(reinterpret_cast<const float4*>(args.host_out), reinterpret_cast<float4*>(args.out),
              slot_floats / 4, args);
  } else {
    CopySlots(args.host_out, args.out, slot_floats, args);
  }
  CopySlots(args.host_lse_ln, args.lse_ln, heads, args);
}

}  // namespace

cudaError_t FetchPartials(const FetchArgs& args, const Launch& launch) {
  if (!Serves(args.geometry) || args.num_rows == 0 || args.num_rows > kMaxDecodeRows ||
      args.max_slots == 0 || args.await.flag == nullptr || args.await.value == nullptr ||
      args.await.error == nullptr || args.go == nullptr) {
    return cudaErrorInvalidValue;
  }
  const uint32_t floats =
      args.num_rows * args.max_slots * args.geometry.num_q_heads * args.geometry.head_dim;
  const uint32_t blocks = CeilDiv(floats, 4 * kThreads);
  return LaunchKernel(launch, FetchKernel, dim3(blocks < kMaxBlocks ? blocks : kMaxBlocks),
                      kThreads, 0, args);
}

}  // namespace tributary::gpu
