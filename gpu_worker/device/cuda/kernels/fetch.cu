#include "gpu_worker/device/cuda/kernels/fetch.h"

#include <algorithm>
#include <cstddef>

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kLoadsInFlight = 4;
// All must be on the GPU at once: they wait for block 0.
constexpr uint32_t kMaxBlocks = 64;
constexpr uint32_t kPrefetchBytes = 32768;  // at once

__device__ uint64_t LoadAcquireGpu(const uint64_t* address) {
  uint64_t value;
  asm volatile("ld.acquire.gpu.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}
__device__ void StoreReleaseGpu(uint64_t* address, uint64_t value) {
  asm volatile("st.release.gpu.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}

__device__ void PrefetchToL2(const std::byte* from, uint32_t bytes) {  // multiples of 16
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#endif
}

// Slots of a row where all have as many.
__device__ uint32_t SlotsOf(uint32_t word, uint32_t row, uint32_t max_slots) {
  return row < word >> 16 ? min(word & 0xffff, max_slots) : 0;
}

// Brings what comes next into the L2 cache meanwhile, front to back over all blocks.
__device__ uint32_t AwaitFirstBlock(const FetchArgs& args) {
  const auto* const next = static_cast<const std::byte*>(args.next);
  const uint32_t step_number = *args.await.value;
  uint64_t at = uint64_t{blockIdx.x - 1} * kPrefetchBytes;
  uint64_t seen = LoadAcquireGpu(args.go);
  while (static_cast<uint32_t>(seen) != step_number) {
    if (at + kPrefetchBytes <= args.next_bytes) PrefetchToL2(next + at, kPrefetchBytes);
    at += uint64_t{gridDim.x - 1} * kPrefetchBytes;
    seen = LoadAcquireGpu(args.go);
  }
  return static_cast<uint32_t>(seen >> 32);
}

// Block 0 waits for the host and passes its word on, and the number of slots if that is not in it; the others wait for
// block 0. The host's word.
__device__ uint32_t AwaitHost(const FetchArgs& args) {
  __shared__ uint32_t word;
  if (blockIdx.x == 0) {
    if (threadIdx.x == 0) word = AwaitOneThread(args.await);
    __syncthreads();
    if (word == kUnevenSlots) {
      for (uint32_t r = threadIdx.x; r < args.num_rows; r += kThreads) {
        args.num_slots[r] = min(__ldcv(args.host_num_slots + r), args.max_slots);
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) StoreReleaseGpu(args.go, uint64_t{word} << 32 | *args.await.value);
  } else if (threadIdx.x == 0) {
    word = AwaitFirstBlock(args);
  }
  __syncthreads();
  return word;
}

// Of each row's max_slots slots of `slot_items` items of T, those that it has. By `num_blocks` blocks, of which this is
// one.
template <typename T>
__device__ void CopySlots(const T* from, T* to, uint32_t slot_items, uint32_t word, uint32_t block_idx,
                          uint32_t num_blocks, const FetchArgs& args) {
  const uint32_t row_items = slot_items * args.max_slots;
  const uint32_t items = row_items * args.num_rows;
  const uint32_t stride = num_blocks * kThreads;
  for (uint32_t begin = block_idx * kThreads + threadIdx.x; begin < items; begin += stride * kLoadsInFlight) {
    T item[kLoadsInFlight];
    bool wanted[kLoadsInFlight];
#pragma unroll
    for (uint32_t j = 0; j < kLoadsInFlight; ++j) {
      const uint32_t i = begin + j * stride;
      uint32_t slots = 0;
      if (i < items) {
        slots = word == kUnevenSlots ? args.num_slots[i / row_items] : SlotsOf(word, i / row_items, args.max_slots);
      }
      wanted[j] = i % row_items < slots * slot_items;
      if (wanted[j]) item[j] = __ldcv(from + i);
    }
#pragma unroll
    for (uint32_t j = 0; j < kLoadsInFlight; ++j) {
      if (wanted[j]) to[begin + j * stride] = item[j];
    }
  }
}

// The last block copies lse_ln, the others `out`, so that both are under way at once.
__global__ void __launch_bounds__(kThreads) FetchKernel(const FetchArgs args) {
  WaitForPredecessor();
  const uint32_t word = AwaitHost(args);
  // Not before: blocks of the next kernels would fill the multiprocessors for as long as the host takes, and a prefill
  // or a copy of KV could not use the GPU meanwhile.
  LetSuccessorStart();
  const uint32_t heads = args.geometry.num_q_heads;
  const uint32_t out_blocks = gridDim.x - 1;
  if (blockIdx.x == out_blocks) {
    for (uint32_t r = threadIdx.x; word != kUnevenSlots && r < args.num_rows; r += kThreads) {
      args.num_slots[r] = SlotsOf(word, r, args.max_slots);
    }
    CopySlots(args.host_lse_ln, args.lse_ln, heads, word, 0, 1, args);
  } else {
    const uint32_t vectors = heads * args.geometry.head_dim / 4;
    CopySlots(reinterpret_cast<const float4*>(args.host_out), reinterpret_cast<float4*>(args.out), vectors, word,
              blockIdx.x, out_blocks, args);
  }
}

}  // namespace

cudaError_t FetchPartials(const FetchArgs& args, const Launch& launch) {
  if (!Serves(args.geometry) || args.num_rows == 0 || args.num_rows > kMaxDecodeRows || args.max_slots == 0 ||
      args.await.flag == nullptr || args.await.value == nullptr || args.await.error == nullptr || args.go == nullptr ||
      reinterpret_cast<uintptr_t>(args.next) % 16 != 0) {
    return cudaErrorInvalidValue;
  }
  const uint32_t floats = args.num_rows * args.max_slots * args.geometry.num_q_heads * args.geometry.head_dim;
  const uint32_t blocks = CeilDiv(floats, 4 * kThreads);
  // All of them where there is something to prefetch: one multiprocessor alone does not ask fast enough.
  const uint32_t out_blocks = args.next != nullptr ? kMaxBlocks - 1 : std::min(blocks, kMaxBlocks - 1);
  // Bytes: rows x slots x q_heads x (head_dim x 4 + 4) read over the bus and written; up to next_bytes into L2
  // meanwhile. Ceiling: the host's ring, then the bus.
  return LaunchKernel(launch, FetchKernel, dim3(out_blocks + 1), kThreads, 0, args);
}

}  // namespace tributary::gpu
