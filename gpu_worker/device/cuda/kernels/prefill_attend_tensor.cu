#include <cmath>
#include <type_traits>

#include "gpu_worker/device/cuda/kernels/device_common.cuh"
#include "gpu_worker/device/cuda/kernels/prefill_attend.h"
#include "gpu_worker/device/cuda/kernels/tensor_core.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreads = kWarps * kWarpSize;
constexpr uint32_t kRowsPerWarp = 16;
constexpr uint32_t kTileQueries = kWarps * kRowsPerWarp;
constexpr uint32_t kTileKeys = 64;
constexpr uint32_t kStages = 2;
constexpr uint32_t kChunkBytes = 16;
constexpr float kLog2E = 1.4426950408889634f;

// ---- a few instructions ----

__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}
// 16 bytes, or zeros.
__device__ inline void CopyAsync(uint32_t to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
__device__ inline void LoadMatrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ inline void LoadMatricesTransposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
template <typename T>
__device__ inline uint32_t Pack(float low, float high) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// ---- tiles in shared memory: rows of kDim elements; 16-byte chunks are swizzled so that 8 rows hit 8 bank groups ----

template <uint32_t kDim>
__device__ inline uint32_t TileOffset(uint32_t row, uint32_t chunk) {
  return row * kDim * 2 + (chunk ^ (row & 7)) * kChunkBytes;
}

// Rows [first, first + kRows) of a matrix with `stride` elements from row to row; zeros from `end` on.
template <typename T, uint32_t kDim, uint32_t kRows>
__device__ inline void LoadTile(uint32_t tile, const T* from, size_t stride, uint64_t first, uint64_t end) {
  constexpr uint32_t kChunks = kDim * 2 / kChunkBytes;
#pragma unroll
  for (uint32_t i = 0; i < kRows * kChunks / kThreads; ++i) {
    const uint32_t idx = i * kThreads + threadIdx.x;
    const uint32_t row = idx / kChunks, chunk = idx % kChunks;
    const bool valid = first + row < end;
    const T* source = from + (valid ? first + row : 0) * stride + chunk * 8;
    CopyAsync(tile + TileOffset<kDim>(row, chunk), source, valid);
  }
}

// What a warp knows of its 16 queries. Lane l holds rows g = l / 4 and g + 8.
template <uint32_t kDim>
struct WarpState {
  uint32_t q[kDim / 16][4];
  float out[kDim / 8][4];
  float max[2] = {-INFINITY, -INFINITY};  // of scores * scale * log2(e)
  float sum[2] = {0, 0};                  // this lane's share
};

// scores[16][64] = q k^T.
template <typename T, uint32_t kDim>
__device__ inline void Score(const WarpState<kDim>& state, uint32_t k_tile, float (&scores)[kTileKeys / 8][4]) {
  const uint32_t lane = threadIdx.x % kWarpSize;
  const uint32_t key_row = lane / 16 * 8 + lane % 8, dim_chunk = lane / 8 % 2;
#pragma unroll
  for (uint32_t n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
    for (float& score : scores[n]) score = 0;
  }
#pragma unroll
  for (uint32_t d = 0; d < kDim / 16; ++d) {
    const uint32_t(&q)[4] = state.q[d];
#pragma unroll
    for (uint32_t n = 0; n < kTileKeys / 16; ++n) {
      uint32_t b[4];
      LoadMatrices(b, k_tile + TileOffset<kDim>(n * 16 + key_row, d * 2 + dim_chunk));
      Mma<T>(scores[2 * n], q[0], q[1], q[2], q[3], b[0], b[1]);
      Mma<T>(scores[2 * n + 1], q[0], q[1], q[2], q[3], b[2], b[3]);
    }
  }
}

// Keys beyond a row's position become -inf. `first_key` is the tile's, `pos` that of the lane's first row.
__device__ inline void Mask(float (&scores)[kTileKeys / 8][4], uint64_t first_key, uint64_t pos) {
  const uint32_t lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (uint32_t n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint64_t key = first_key + n * 8 + lane % 4 * 2 + i % 2;
      if (key > pos + i / 2 * 8) scores[n][i] = -INFINITY;
    }
  }
}

// Scores become weights relative to the new maximum; what was summed before is scaled to it.
template <uint32_t kDim>
__device__ inline void Softmax(WarpState<kDim>& state, float (&scores)[kTileKeys / 8][4], float scale_log2) {
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    float tile_max = -INFINITY;
#pragma unroll
    for (uint32_t n = 0; n < kTileKeys / 8; ++n) {
      tile_max = fmaxf(tile_max, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
    }
    tile_max = fmaxf(tile_max, __shfl_xor_sync(kAllLanes, tile_max, 1));
    tile_max = fmaxf(tile_max, __shfl_xor_sync(kAllLanes, tile_max, 2));
    // Key 0 is visible to every row, so the maximum is finite from the first tile on.
    const float max = fmaxf(state.max[half], tile_max * scale_log2);
    const float factor = exp2f(state.max[half] - max);
    state.max[half] = max;
    float sum = 0;
#pragma unroll
    for (uint32_t n = 0; n < kTileKeys / 8; ++n) {
#pragma unroll
      for (uint32_t i = 2 * half; i < 2 * half + 2; ++i) {
        scores[n][i] = exp2f(fmaf(scores[n][i], scale_log2, -max));
        sum += scores[n][i];
      }
    }
    state.sum[half] = state.sum[half] * factor + sum;
#pragma unroll
    for (uint32_t n = 0; n < kDim / 8; ++n) {
      state.out[n][2 * half] *= factor;
      state.out[n][2 * half + 1] *= factor;
    }
  }
}

// out[16][kDim] += weights v.
template <typename T, uint32_t kDim>
__device__ inline void Accumulate(WarpState<kDim>& state, uint32_t v_tile, const float (&weights)[kTileKeys / 8][4]) {
  const uint32_t lane = threadIdx.x % kWarpSize;
  const uint32_t key_row = lane % 16, dim_chunk = lane / 16;
#pragma unroll
  for (uint32_t k = 0; k < kTileKeys / 16; ++k) {
    const uint32_t a[4] = {Pack<T>(weights[2 * k][0], weights[2 * k][1]), Pack<T>(weights[2 * k][2], weights[2 * k][3]),
                           Pack<T>(weights[2 * k + 1][0], weights[2 * k + 1][1]),
                           Pack<T>(weights[2 * k + 1][2], weights[2 * k + 1][3])};
#pragma unroll
    for (uint32_t n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];
      LoadMatricesTransposed(b, v_tile + TileOffset<kDim>(k * 16 + key_row, n * 2 + dim_chunk));
      Mma<T>(state.out[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
      Mma<T>(state.out[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
    }
  }
}

template <typename T, uint32_t kDim>
__device__ inline void LoadQueries(WarpState<kDim>& state, uint32_t q_tile) {
  const uint32_t lane = threadIdx.x % kWarpSize;
  const uint32_t row = threadIdx.x / kWarpSize * kRowsPerWarp + lane % 16;
#pragma unroll
  for (uint32_t d = 0; d < kDim / 16; ++d) {
    LoadMatrices(state.q[d], q_tile + TileOffset<kDim>(row, d * 2 + lane / 16));
  }
#pragma unroll
  for (uint32_t n = 0; n < kDim / 8; ++n) {
#pragma unroll
    for (float& value : state.out[n]) value = 0;
  }
}

template <uint32_t kDim>
__device__ inline void StoreOut(const PrefillAttendArgs& args, WarpState<kDim>& state, uint32_t first_query,
                                uint32_t q_head) {
  const uint32_t lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    const uint32_t query = first_query + lane / 4 + half * 8;
    if (query >= args.num_queries) continue;
    // As in the plain kernel; the maximum is in base 2.
    if (args.sink_logits != nullptr) sum += exp2f(args.sink_logits[q_head] * kLog2E - state.max[half]);
    const float factor = 1.0f / sum;
    const size_t begin = (size_t{query} * args.geometry.num_q_heads + q_head) * kDim + lane % 4 * 2;
#pragma unroll
    for (uint32_t n = 0; n < kDim / 8; ++n) {
      const float low = state.out[n][2 * half] * factor;
      const float high = state.out[n][2 * half + 1] * factor;
      const size_t at = begin + n * 8;
      if (args.out_dtype == DType::kBf16) {
        *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(args.out) + at) = Pack<__nv_bfloat16>(low, high);
      } else if (args.out_dtype == DType::kF16) {
        *reinterpret_cast<uint32_t*>(static_cast<__half*>(args.out) + at) = Pack<__half>(low, high);
      } else {
        *reinterpret_cast<float2*>(static_cast<float*>(args.out) + at) = make_float2(low, high);
      }
    }
  }
}

// One block: kTileQueries queries of one query head; each warp 16 of them, all against the same tiles of keys.
template <typename T, uint32_t kDim>
__global__ void __launch_bounds__(kThreads, 1) PrefillAttendKernel(const PrefillAttendArgs args) {
  extern __shared__ __align__(128) std::byte shared[];
  BeginKernel();
  constexpr uint32_t kTileBytes = kTileKeys * kDim * 2;
  const uint32_t q_tile = SharedAddress(shared);
  const uint32_t kv_tiles = q_tile + kTileQueries * kDim * 2;
  const KvGeometry& g = args.geometry;
  const uint32_t q_head = blockIdx.x;
  // The longest rows first: what is left at the end is short.
  const uint32_t first_query = (gridDim.y - 1 - blockIdx.y) * kTileQueries;
  const uint64_t end = args.first_pos + min(first_query + kTileQueries, args.num_queries);
  const uint32_t num_tiles = static_cast<uint32_t>((end + kTileKeys - 1) / kTileKeys);
  const uint32_t kv_head = q_head / (g.num_q_heads / g.num_kv_heads);
  const size_t kv_stride = size_t{g.num_kv_heads} * kDim;
  const T* k = static_cast<const T*>(args.k) + size_t{kv_head} * kDim;
  const T* v = static_cast<const T*>(args.v) + size_t{kv_head} * kDim;
  const auto load = [&](uint32_t tile) {
    const uint32_t to = kv_tiles + tile % kStages * 2 * kTileBytes;
    LoadTile<T, kDim, kTileKeys>(to, k, kv_stride, uint64_t{tile} * kTileKeys, end);
    LoadTile<T, kDim, kTileKeys>(to + kTileBytes, v, kv_stride, uint64_t{tile} * kTileKeys, end);
  };

  LoadTile<T, kDim, kTileQueries>(q_tile, static_cast<const T*>(args.q) + size_t{q_head} * kDim,
                                  size_t{g.num_q_heads} * kDim, first_query, args.num_queries);
  CommitCopies();
  load(0);
  CommitCopies();
  AwaitCopies<1>();
  __syncthreads();
  WarpState<kDim> state;
  LoadQueries<T, kDim>(state, q_tile);

  const uint32_t warp_query = first_query + threadIdx.x / kWarpSize * kRowsPerWarp;
  const uint64_t warp_pos = args.first_pos + warp_query;
  const uint64_t lane_pos = warp_pos + threadIdx.x % kWarpSize / 4;
  const float scale_log2 = args.softmax_scale * kLog2E;
  for (uint32_t tile = 0; tile < num_tiles; ++tile) {
    if (tile + 1 < num_tiles) load(tile + 1);
    CommitCopies();  // possibly of nothing: the count below stays right
    AwaitCopies<1>();
    __syncthreads();
    const uint64_t first_key = uint64_t{tile} * kTileKeys;
    if (first_key <= warp_pos + kRowsPerWarp - 1) {
      const uint32_t k_tile = kv_tiles + tile % kStages * 2 * kTileBytes;
      float scores[kTileKeys / 8][4];
      Score<T, kDim>(state, k_tile, scores);
      if (first_key + kTileKeys - 1 > warp_pos) Mask(scores, first_key, lane_pos);
      Softmax<kDim>(state, scores, scale_log2);
      Accumulate<T, kDim>(state, k_tile + kTileBytes, scores);
    }
    __syncthreads();  // the tile after the next one overwrites this one
  }
  StoreOut<kDim>(args, state, warp_query, q_head);
}

template <typename T, uint32_t kDim>
cudaError_t LaunchTensor(const PrefillAttendArgs& args, const Launch& launch) {
  constexpr uint32_t kSharedBytes = (kTileQueries + kStages * 2 * kTileKeys) * kDim * 2;
  const cudaError_t error =
      cudaFuncSetAttribute(PrefillAttendKernel<T, kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  const dim3 grid(args.geometry.num_q_heads, CeilDiv(args.num_queries, kTileQueries));
  // Bytes: q and out once, K and V once per tile of queries (mostly from L2); 4 x queries x visible keys x q_heads x
  // head_dim FLOP. Ceiling: tensor cores.
  return LaunchKernel(launch, PrefillAttendKernel<T, kDim>, grid, kThreads, kSharedBytes, args);
}

template <typename T>
cudaError_t LaunchTensor(const PrefillAttendArgs& args, const Launch& launch) {
  return args.geometry.head_dim == 64 ? LaunchTensor<T, 64>(args, launch) : LaunchTensor<T, 128>(args, launch);
}

}  // namespace

bool PrefillAttendOnTensorCores(DType q_dtype, DType kv_dtype, const KvGeometry& geometry) {
  return q_dtype == kv_dtype && (kv_dtype == DType::kBf16 || kv_dtype == DType::kF16) &&
         (geometry.head_dim == 64 || geometry.head_dim == 128);
}

cudaError_t PrefillAttendTensor(const PrefillAttendArgs& args, const Launch& launch) {
  if (!Serves(args.geometry) || args.num_queries == 0 || !IsFloatDType(args.out_dtype) || args.window_tokens != 0 ||
      args.soft_cap != 0 || !PrefillAttendOnTensorCores(args.q_dtype, args.kv_dtype, args.geometry)) {
    return cudaErrorInvalidValue;
  }
  return args.kv_dtype == DType::kBf16 ? LaunchTensor<__nv_bfloat16>(args, launch) : LaunchTensor<__half>(args, launch);
}

cudaError_t PrefillAttend(const PrefillAttendArgs& args, const Launch& launch) {
  const bool tensor = PrefillAttendOnTensorCores(args.q_dtype, args.kv_dtype, args.geometry) &&
                      args.window_tokens == 0 && args.soft_cap == 0;
  return tensor ? PrefillAttendTensor(args, launch) : PrefillAttendPlain(args, launch);
}

}  // namespace tributary::gpu
