// Decode attention in plain f32 arithmetic, for any dtype and head_dim: what attend_tensor.cu must agree with.
#include "gpu_worker/device/cuda/kernels/attend_plan.cuh"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kHeads = 4;  // query heads of one block
constexpr float kLog2E = 1.44269504088896341f;

// A warp's running softmax (base 2) of kHeads heads; lane l has the elements l + 32 j of out.
template <uint32_t kPerLane>
struct WarpState {
  float max[kHeads];
  float sum[kHeads];
  float out[kHeads][kPerLane];
};

template <typename T, uint32_t kPerLane>
__device__ void AttendToken(const T* k, const T* v, const float (&q)[kHeads][kPerLane], uint32_t head_dim,
                            float cap_log2, uint32_t lane, float (&score)[kHeads], WarpState<kPerLane>& state) {
  float key[kPerLane], value[kPerLane];
#pragma unroll
  for (uint32_t j = 0; j < kPerLane; ++j) {
    const uint32_t d = lane + j * kWarpSize;
    key[j] = d < head_dim ? ToF32(k[d]) : 0.0f;
    value[j] = d < head_dim ? ToF32(v[d]) : 0.0f;
  }
#pragma unroll
  for (uint32_t h = 0; h < kHeads; ++h) {
    float dot = 0;
#pragma unroll
    for (uint32_t j = 0; j < kPerLane; ++j) dot += q[h][j] * key[j];
    score[h] = WarpSum(dot);
    if (cap_log2 != 0) score[h] = cap_log2 * tanhf(score[h] / cap_log2);
    const float max = fmaxf(state.max[h], score[h]);
    const float keep = exp2f(state.max[h] - max);  // 0 at first: max is -inf
    const float weight = exp2f(score[h] - max);
    state.max[h] = max;
    state.sum[h] = state.sum[h] * keep + weight;
#pragma unroll
    for (uint32_t j = 0; j < kPerLane; ++j) {
      state.out[h][j] = state.out[h][j] * keep + weight * value[j];
    }
  }
}

// Puts the warps' states together, and writes the item's partials.
template <uint32_t kPerLane>
__device__ void WriteItem(const AttendArgs& args, const AttendItem& item, const WarpState<kPerLane>& state,
                          uint32_t warp, uint32_t lane) {
  __shared__ float max_sum[kWarps][kHeads][2];
  __shared__ float out[kWarps][kHeads][kPerLane * kWarpSize];
  for (uint32_t h = 0; h < kHeads; ++h) {
    if (lane == 0) {
      max_sum[warp][h][0] = state.max[h];
      max_sum[warp][h][1] = state.sum[h];
    }
#pragma unroll
    for (uint32_t j = 0; j < kPerLane; ++j) out[warp][h][lane + j * kWarpSize] = state.out[h][j];
  }
  __syncthreads();
  for (uint32_t h = warp; h < item.num_q_heads; h += kWarps) {
    float max = -INFINITY;
    for (uint32_t w = 0; w < kWarps; ++w) max = fmaxf(max, max_sum[w][h][0]);
    float weight[kWarps], sum = 0;
    for (uint32_t w = 0; w < kWarps; ++w) {
      weight[w] = exp2f(max_sum[w][h][0] - max);
      sum += max_sum[w][h][1] * weight[w];
    }
    const size_t idx = WorkspaceIdx(args, item, h);
    for (uint32_t d = lane; d < args.geometry.head_dim; d += kWarpSize) {
      float total = 0;
      for (uint32_t w = 0; w < kWarps; ++w) total += out[w][h][d] * weight[w];
      args.workspace.out[idx * args.geometry.head_dim + d] = total;
    }
    if (lane == 0) {
      args.workspace.max_sum[idx * 2] = max;
      args.workspace.max_sum[idx * 2 + 1] = sum;
    }
  }
  __syncthreads();
}

template <typename T, uint32_t kPerLane>
__global__ void __launch_bounds__(kWarps* kWarpSize) AttendPlainKernel(const AttendArgs args) {
  BeginKernel();
  __shared__ ItemTable table;
  BuildItemTable(args, kHeads, table);
  const uint32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const KvGeometry& g = args.geometry;
  for (uint32_t i = blockIdx.x; i < table.first_item[args.num_rows]; i += gridDim.x) {
    const AttendItem item = FindItem(args, kHeads, table, i);
    const DecodeRowDesc& row = args.rows[item.row];
    float q[kHeads][kPerLane];
    WarpState<kPerLane> state;
    for (uint32_t h = 0; h < kHeads; ++h) {
      state.max[h] = -INFINITY;
      state.sum[h] = 0;
      const size_t head = size_t{item.row} * g.num_q_heads + item.first_q_head + h;
      for (uint32_t j = 0; j < kPerLane; ++j) {
        const uint32_t d = lane + j * kWarpSize;
        const bool there = h < item.num_q_heads && d < g.head_dim;
        q[h][j] = there ? args.q[head * g.head_dim + d] * args.softmax_scale * kLog2E : 0.0f;
        state.out[h][j] = 0;
      }
    }
    const T* region = reinterpret_cast<const T*>(row.region);
    const T* k = region + KvHeadOffset(row, g, args.layer, 0, item.kv_head);
    const T* v = region + KvHeadOffset(row, g, args.layer, 1, item.kv_head);
    for (uint32_t t = item.token_begin + warp; t < item.token_end; t += kWarps) {
      const size_t offset = size_t{SlotOf(row, t)} * g.head_dim;
      float score[kHeads];
      AttendToken<T, kPerLane>(k + offset, v + offset, q, g.head_dim, args.soft_cap * kLog2E, lane, score, state);
      if (!args.keep_scores || row.scores == nullptr || lane != 0) continue;
      for (uint32_t h = 0; h < item.num_q_heads; ++h) {
        row.scores[size_t{item.first_q_head + h} * row.capacity_tokens + SlotOf(row, t)] = score[h];
      }
    }
    WriteItem<kPerLane>(args, item, state, warp, lane);
  }
}

template <typename T, uint32_t kPerLane>
cudaError_t LaunchPlain(const AttendArgs& args, const Launch& launch) {
  uint32_t blocks = 0;
  const auto kernel = AttendPlainKernel<T, kPerLane>;
  const cudaError_t error = ResidentBlocks(kernel, kWarps * kWarpSize, 0, &blocks);
  if (error != cudaSuccess) return error;
  // Bytes: as AttendOnTensorCores(), for each kHeads query heads of a group. Ceiling: device memory for f32 KV of small
  // groups; else f32 multiply-adds, 2 x q_heads x head_dim for each token.
  return LaunchKernel(launch, kernel, dim3(blocks), kWarps * kWarpSize, 0, args);
}

template <typename T>
cudaError_t LaunchForHeadDim(const AttendArgs& args, const Launch& launch) {
  if (args.geometry.head_dim <= 32) return LaunchPlain<T, 1>(args, launch);
  if (args.geometry.head_dim <= 64) return LaunchPlain<T, 2>(args, launch);
  if (args.geometry.head_dim <= 128) return LaunchPlain<T, 4>(args, launch);
  return LaunchPlain<T, 8>(args, launch);
}

}  // namespace

cudaError_t AttendPlain(const AttendArgs& args, const Launch& launch) {
  if (args.kv_dtype == DType::kF32) return LaunchForHeadDim<float>(args, launch);
  if (args.kv_dtype == DType::kBf16) return LaunchForHeadDim<__nv_bfloat16>(args, launch);
  return LaunchForHeadDim<__half>(args, launch);
}

}  // namespace tributary::gpu
