// What the kernels of this folder share: conversions, reductions, launches, and the order of kernels and of the host.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "base/dtype.h"
#include "gpu_worker/device/cuda/kernels/activation.h"
#include "gpu_worker/device/cuda/kernels/decode_rows.h"
#include "gpu_worker/device/cuda/kernels/doorbell.h"
#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

inline constexpr uint32_t kWarpSize = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline float ToF32(float x) { return x; }
__device__ inline float ToF32(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float ToF32(__half x) { return __half2float(x); }

template <typename T>
__device__ T FromF32(float x);
template <>
__device__ inline float FromF32<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 FromF32<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
template <>
__device__ inline __half FromF32<__half>(float x) {
  return __float2half_rn(x);
}

__device__ inline float LoadAs(const void* base, DType dtype, size_t idx) {
  if (dtype == DType::kF32) return static_cast<const float*>(base)[idx];
  if (dtype == DType::kBf16) return ToF32(static_cast<const __nv_bfloat16*>(base)[idx]);
  return ToF32(static_cast<const __half*>(base)[idx]);
}
__device__ inline void StoreAs(void* base, DType dtype, size_t idx, float value) {
  if (dtype == DType::kF32) {
    static_cast<float*>(base)[idx] = value;
  } else if (dtype == DType::kBf16) {
    static_cast<__nv_bfloat16*>(base)[idx] = FromF32<__nv_bfloat16>(value);
  } else {
    static_cast<__half*>(base)[idx] = FromF32<__half>(value);
  }
}

// Four elements at an index that is a multiple of 4.
__device__ inline void Store4As(void* base, DType dtype, size_t idx, float4 x) {
  if (dtype == DType::kF32) {
    *reinterpret_cast<float4*>(static_cast<float*>(base) + idx) = x;
  } else if (dtype == DType::kBf16) {
    auto* const out = reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(base) + idx);
    out[0] = __floats2bfloat162_rn(x.x, x.y);
    out[1] = __floats2bfloat162_rn(x.z, x.w);
  } else {
    auto* const out = reinterpret_cast<__half2*>(static_cast<__half*>(base) + idx);
    out[0] = __floats2half2_rn(x.x, x.y);
    out[1] = __floats2half2_rn(x.z, x.w);
  }
}

__device__ inline float Activate(GateActivation activation, float x) {
  if (activation == GateActivation::kSilu) return x / (1.0f + expf(-x));
  return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
}

__device__ inline float Gated(GateActivation activation, float gate, float up) {
  if (activation != GateActivation::kClampedSwiglu) return Activate(activation, gate) * up;
  constexpr float kLimit = 7.0f;
  // Written so that NaN stays NaN.
  const float g = gate > kLimit ? kLimit : gate;
  const float u = up > kLimit ? kLimit : up < -kLimit ? -kLimit : up;
  return g / (1.0f + expf(-1.702f * g)) * (u + 1.0f);
}

__device__ inline float WarpSum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ inline float WarpMax(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// Programmatic dependent launch (PTX: griddepcontrol). A kernel first lets its successor start, then waits until all
// that its predecessors wrote is visible. Each kernel waits, so what a successor's wait promises holds for all before
// it.
__device__ inline void LetSuccessorStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ inline void WaitForPredecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void BeginKernel() {
  LetSuccessorStart();
  WaitForPredecessor();
}

__device__ inline uint32_t LoadAcquireSystem(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline uint64_t LoadAcquireSystem(const uint64_t* address) {
  uint64_t value;
  asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
  return value;
}
__device__ inline void StoreReleaseSystem(uint32_t* address, uint32_t value) {
  asm volatile("st.release.sys.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
__device__ inline uint64_t NowNs() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

// One thread; a barrier of the block after it passes the order on to the others. The host's word; 0 after an error.
__device__ inline uint32_t AwaitOneThread(const Await& await) {
  // Looks at the flag take a trip over the bus each, and so do those at the error: they are rare.
  constexpr uint32_t kLooksPerErrorLook = 32;
  const bool is_first_block = (blockIdx.x | blockIdx.y | blockIdx.z) == 0;
  const uint32_t value = *await.value;
  if (is_first_block && await.begin_ns != nullptr) *await.begin_ns = NowNs();
  const uint64_t begin_ns = NowNs();
  uint64_t seen = LoadAcquireSystem(await.flag);
  for (uint32_t looks = 1; static_cast<uint32_t>(seen) != value; ++looks) {
    if (looks % kLooksPerErrorLook == 1) {
      if (LoadAcquireSystem(await.error) != 0) return 0;
      if (NowNs() - begin_ns > await.timeout_ns) {
        StoreReleaseSystem(await.error, await.error_code);
        return 0;
      }
    }
    seen = LoadAcquireSystem(await.flag);
  }
  if (is_first_block && await.end_ns != nullptr) *await.end_ns = NowNs();
  return static_cast<uint32_t>(seen >> 32);
}

// Called by all threads of all blocks after their last write. Each block releases to the GPU, and the last one, which
// has seen them all, to the system: its store's release is the only fence of the whole system, which takes most of a
// microsecond.
__device__ inline void RingAfterLastBlock(const Ring& ring, uint32_t num_blocks) {
  if (ring.flag == nullptr) return;
  __syncthreads();
  if (threadIdx.x != 0) return;
  __threadfence();
  if (atomicAdd(ring.arrivals, 1u) != num_blocks - 1) return;
  __threadfence();  // what the others wrote before they arrived comes before the flag
  *ring.arrivals = 0;
  if (ring.rung_ns != nullptr) *ring.rung_ns = NowNs();
  StoreReleaseSystem(ring.flag, *ring.value);
}

// Where the idx-th attended token lies, and how many, it included, lie one behind the other from there.
struct SlotRun {
  uint32_t slot;
  uint32_t num_tokens;
};
__device__ inline SlotRun SlotRunOf(const DecodeRowDesc& row, uint32_t idx) {
  uint32_t left = idx;
  for (uint32_t i = 0; i + 1 < kMaxSlotRanges; ++i) {
    const uint32_t size = row.attend[i].end - row.attend[i].begin;
    if (left < size) return {row.attend[i].begin + left, size - left};
    left -= size;
  }
  const DecodeRowDesc::Range& last = row.attend[kMaxSlotRanges - 1];
  return {last.begin + left, last.end - last.begin - left};
}

// Slot of the idx-th attended token. REQUIRES: idx < the row's number of attended tokens.
__host__ __device__ inline uint32_t SlotOf(const DecodeRowDesc& row, uint32_t idx) {
  uint32_t left = idx;
  for (uint32_t i = 0; i + 1 < kMaxSlotRanges; ++i) {
    const uint32_t size = row.attend[i].end - row.attend[i].begin;
    if (left < size) return row.attend[i].begin + left;
    left -= size;
  }
  return row.attend[kMaxSlotRanges - 1].begin + left;
}

__device__ inline size_t KvHeadOffset(const DecodeRowDesc& row, const KvGeometry& geometry, uint32_t layer,
                                      uint32_t value, uint32_t kv_head) {
  return ((size_t{layer} * 2 + value) * geometry.num_kv_heads + kv_head) * row.capacity_tokens * geometry.head_dim;
}

inline bool IsFloatDType(DType dtype) { return DTypeBytes(dtype) != 0; }
inline uint32_t CeilDiv(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

inline bool Serves(const KvGeometry& geometry) {
  return geometry.num_kv_heads != 0 && geometry.num_q_heads % geometry.num_kv_heads == 0 && geometry.head_dim != 0 &&
         geometry.head_dim % 4 == 0 && geometry.head_dim <= 256;
}

// All kernels ask for the same division of a multiprocessor's memory into shared memory and L1: it changes only while
// the multiprocessor is idle, and kernels that want different ones do not overlap.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchKernel(const Launch& launch, void (*kernel)(Parameters...), dim3 grid, uint32_t threads,
                         size_t shared_bytes, const Arguments&... arguments) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = launch.stream;
  config.attrs = &overlap;
  config.numAttrs = launch.overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace tributary::gpu
