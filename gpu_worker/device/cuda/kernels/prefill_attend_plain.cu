#include <cmath>

#include "gpu_worker/device/cuda/kernels/device_common.cuh"
#include "gpu_worker/device/cuda/kernels/prefill_attend.h"

namespace tributary::gpu {
namespace {

constexpr uint32_t kTileQueries = 32;
constexpr uint32_t kTileKeys = 32;
constexpr uint32_t kThreadsPerQuery = 4;
constexpr uint32_t kThreads = kTileQueries * kThreadsPerQuery;
constexpr uint32_t kMaxHeadDim = 256;
constexpr uint32_t kMaxDimsPerThread = kMaxHeadDim / kThreadsPerQuery;
constexpr uint32_t kKeysPerThread = kTileKeys / kThreadsPerQuery;

// Rows of the tile in shared memory: one float more than head_dim, so that a column's rows lie in different banks.
__device__ inline void LoadRows(float* tile, const void* from, DType dtype, size_t stride, uint64_t first, uint64_t end,
                                uint32_t head_dim, uint32_t rows) {
  for (uint32_t i = threadIdx.x; i < rows * head_dim; i += kThreads) {
    const uint32_t row = i / head_dim, dim = i % head_dim;
    tile[row * (head_dim + 1) + dim] = first + row < end ? LoadAs(from, dtype, (first + row) * stride + dim) : 0.0f;
  }
}

__device__ inline float MaxOfQuery(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ inline float SumOfQuery(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

// What a thread knows of its query; max and sum are the same in all four.
struct QueryState {
  float out[kMaxDimsPerThread] = {};
  float max = -INFINITY;
  float sum = 0;
};

// The weights of this thread's keys, relative to the new maximum. Returns the factor for what was summed before.
// The query sees keys [hidden, visible) of the tile.
__device__ float WeighKeys(const float* q, const float* k_tile, uint32_t dim, uint64_t hidden, uint64_t visible,
                           const PrefillAttendArgs& args, QueryState& state, float* weights) {
  const uint32_t part = threadIdx.x % kThreadsPerQuery, pitch = dim + 1;
  float scores[kKeysPerThread] = {};
  for (uint32_t d = 0; d < dim; ++d) {
    const float x = q[d];
#pragma unroll
    for (uint32_t i = 0; i < kKeysPerThread; ++i) {
      scores[i] = fmaf(x, k_tile[(part + i * kThreadsPerQuery) * pitch + d], scores[i]);
    }
  }
  float tile_max = -INFINITY;
#pragma unroll
  for (uint32_t i = 0; i < kKeysPerThread; ++i) {
    const uint32_t key = part + i * kThreadsPerQuery;
    float score = scores[i] * args.softmax_scale;
    if (args.soft_cap != 0) score = args.soft_cap * tanhf(score / args.soft_cap);
    scores[i] = key >= hidden && key < visible ? score : -INFINITY;
    tile_max = fmaxf(tile_max, scores[i]);
  }
  const float max = fmaxf(state.max, MaxOfQuery(tile_max));
  // Until a window's first tile there is nothing: weights of 0, and nothing to rescale.
  const float base = max == -INFINITY ? 0.0f : max;
  const float factor = expf(state.max - base);
  state.max = max;
  float tile_sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < kKeysPerThread; ++i) {
    const float weight = expf(scores[i] - base);
    weights[part + i * kThreadsPerQuery] = weight;
    tile_sum += weight;
  }
  state.sum = state.sum * factor + SumOfQuery(tile_sum);
  return factor;
}

__device__ void AddValues(const float* weights, const float* v_tile, uint32_t dim, float factor, QueryState& state) {
  const uint32_t part = threadIdx.x % kThreadsPerQuery, pitch = dim + 1;
#pragma unroll
  for (uint32_t j = 0; j < kMaxDimsPerThread; ++j) {
    const uint32_t d = part + j * kThreadsPerQuery;
    if (d >= dim) break;
    float value = state.out[j] * factor;
    for (uint32_t key = 0; key < kTileKeys; ++key) {
      value = fmaf(weights[key], v_tile[key * pitch + d], value);
    }
    state.out[j] = value;
  }
}

// One block: kTileQueries queries of one query head, four threads each: thread t of a query has the keys and the
// dimensions t, t + 4, t + 8 ...
__global__ void __launch_bounds__(kThreads) PrefillAttendPlainKernel(const PrefillAttendArgs args) {
  extern __shared__ float tiles[];
  BeginKernel();
  const KvGeometry& g = args.geometry;
  const uint32_t dim = g.head_dim, pitch = dim + 1;
  float* const q_tile = tiles;
  float* const k_tile = q_tile + kTileQueries * pitch;
  float* const v_tile = k_tile + kTileKeys * pitch;
  float* const weights = v_tile + kTileKeys * pitch;  // [kTileQueries][kTileKeys + 1]
  const uint32_t q_head = blockIdx.x, first_query = (gridDim.y - 1 - blockIdx.y) * kTileQueries;
  const uint32_t query = threadIdx.x / kThreadsPerQuery, part = threadIdx.x % kThreadsPerQuery;
  const uint64_t end = args.first_pos + min(first_query + kTileQueries, args.num_queries);
  const uint64_t pos = args.first_pos + first_query + query;
  const size_t kv_stride = size_t{g.num_kv_heads} * dim;
  const size_t kv_offset = size_t{q_head / (g.num_q_heads / g.num_kv_heads)} * dim;
  const size_t element_bytes = args.kv_dtype == DType::kF32 ? 4 : 2;
  const std::byte* k = static_cast<const std::byte*>(args.k) + kv_offset * element_bytes;
  const std::byte* v = static_cast<const std::byte*>(args.v) + kv_offset * element_bytes;
  const std::byte* q =
      static_cast<const std::byte*>(args.q) + size_t{q_head} * dim * (args.q_dtype == DType::kF32 ? 4 : 2);
  LoadRows(q_tile, q, args.q_dtype, size_t{g.num_q_heads} * dim, first_query, args.num_queries, dim, kTileQueries);

  QueryState state;
  const uint64_t window = args.window_tokens, first_pos = args.first_pos + first_query;
  const uint64_t begin_key = window == 0 || window > first_pos ? 0 : first_pos + 1 - window;
  for (uint64_t first_key = begin_key / kTileKeys * kTileKeys; first_key < end; first_key += kTileKeys) {
    __syncthreads();
    LoadRows(k_tile, k, args.kv_dtype, kv_stride, first_key, end, dim, kTileKeys);
    LoadRows(v_tile, v, args.kv_dtype, kv_stride, first_key, end, dim, kTileKeys);
    __syncthreads();
    const uint64_t visible = pos + 1 > first_key ? pos + 1 - first_key : 0;
    const uint64_t hidden = window != 0 && pos + 1 > first_key + window ? pos + 1 - first_key - window : 0;
    float* const query_weights = weights + query * (kTileKeys + 1);
    const float factor = WeighKeys(q_tile + query * pitch, k_tile, dim, hidden, visible, args, state, query_weights);
    __syncwarp();  // a query's four threads are of one warp
    AddValues(query_weights, v_tile, dim, factor, state);
  }
  if (first_query + query >= args.num_queries) return;
  // The sum is relative to the maximum of the keys: where a sink is far above it the weights vanish, as they should.
  if (args.sink_logits != nullptr) state.sum += expf(args.sink_logits[q_head] - state.max);
  const size_t begin = (size_t{first_query + query} * g.num_q_heads + q_head) * dim;
#pragma unroll
  for (uint32_t j = 0; j < kMaxDimsPerThread; ++j) {
    const uint32_t d = part + j * kThreadsPerQuery;
    if (d < dim) StoreAs(args.out, args.out_dtype, begin + d, state.out[j] / state.sum);
  }
}

}  // namespace

cudaError_t PrefillAttendPlain(const PrefillAttendArgs& args, const Launch& launch) {
  if (!Serves(args.geometry) || args.num_queries == 0 || !IsFloatDType(args.q_dtype) || !IsFloatDType(args.kv_dtype) ||
      !IsFloatDType(args.out_dtype)) {
    return cudaErrorInvalidValue;
  }
  const uint32_t pitch = args.geometry.head_dim + 1;
  const uint32_t shared_bytes =
      ((kTileQueries + 2 * kTileKeys) * pitch + kTileQueries * (kTileKeys + 1)) * sizeof(float);
  const cudaError_t error = cudaFuncSetAttribute(PrefillAttendPlainKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  const dim3 grid(args.geometry.num_q_heads, CeilDiv(args.num_queries, kTileQueries));
  // Bytes: as PrefillAttendTensor(), with smaller tiles. Ceiling: f32 multiply-adds and shared memory.
  return LaunchKernel(launch, PrefillAttendPlainKernel, grid, kThreads, shared_bytes, args);
}

}  // namespace tributary::gpu
