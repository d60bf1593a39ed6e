// Decode attention on tensor cores, straight from global memory into the registers of mma.m16n8k16.
//
// A warp takes 16 tokens at a time. Lane (g, t) = (lane / 4, lane % 4) loads 16 bytes, elements 8t to 8t + 7 of each chunk
// of 32, of tokens g and g + 8: full 64-byte segments of each token, with no shared memory between. The order of elements
// inside a product's k does not matter as long as both operands agree, so registers hold them as they come:
//   S^T [16 tokens x 8 heads] = K [16 x 32 of head_dim] q^T: K is operand A as loaded; q is laid out to fit.
//   O^T [16 of head_dim x 8 heads] = V^T [16 x 16 tokens] P^T: movmatrix transposes V and P, 8x8 at a time, in registers.
// Softmax: each lane has two heads in S^T and in O^T, the same two, so scaling needs no exchange.
#include "gpu_worker/device/cuda/kernels/attend_plan.cuh"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"
#include "gpu_worker/device/cuda/kernels/tensor_core.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kHeads =
    8;  // n of the product: query heads of one block, zeros where there are fewer
constexpr uint32_t kChunk = 32;  // elements of head_dim in one step of 4 lanes x 16 bytes
constexpr float kLog2E = 1.44269504088896341f;

// Shared memory of a block.
template <uint32_t kChunks>
struct Shared {
  ItemTable table;
  uint4 q[kChunks][2][kWarpSize];  // operand B of each chunk: high parts, low parts
  float max_sum[kWarps][kHeads][2];
  float out[kWarps][kHeads][kChunks * kChunk];
};

// A warp's running softmax, base 2. Heads 2t and 2t + 1 of the lane.
template <uint32_t kChunks>
struct TensorState {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
  float out[kChunks][2][4] = {};
};

// Lays q of the item's heads out as operand B: lane (g, t) has elements 8t to 8t + 7 of each chunk of head g.
template <typename T, uint32_t kChunks>
__device__ void LoadQuery(const AttendArgs& args, const AttendItem& item, Shared<kChunks>& shared) {
  for (uint32_t i = threadIdx.x; i < kChunks * kWarpSize; i += kWarps * kWarpSize) {
    const uint32_t chunk = i / kWarpSize, lane = i % kWarpSize;
    const uint32_t head = lane / 4;
    float x[8] = {};
    if (head < item.num_q_heads) {
      const float* q = args.q +
                       (size_t{item.row} * args.geometry.num_q_heads + item.first_q_head + head) *
                           (kChunks * kChunk) +
                       chunk * kChunk + lane % 4 * 8;
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) x[j] = q[j] * (args.softmax_scale * kLog2E);
    }
    uint4 high, low;
    SplitPair<T>(x[0], x[1], high.x, low.x);
    SplitPair<T>(x[2], x[3], high.y, low.y);
    SplitPair<T>(x[4], x[5], high.z, low.z);
    SplitPair<T>(x[6], x[7], high.w, low.w);
    shared.q[chunk][0][lane] = high;
    shared.q[chunk][1][lane] = low;
  }
}

// Scores of a tile: c[0], c[1] of token g, c[2], c[3] of token g + 8.
template <typename T, uint32_t kChunks>
__device__ void Scores(const uint4 (&k)[kChunks][2], const Shared<kChunks>& shared, uint32_t lane,
                       float (&c)[4]) {
  float low_part[4] = {};
#pragma unroll
  for (uint32_t i = 0; i < kChunks; ++i) {
    const uint4 high = shared.q[i][0][lane], low = shared.q[i][1][lane];
    Mma<T>(c, k[i][0].x, k[i][1].x, k[i][0].y, k[i][1].y, high.x, high.y);
    Mma<T>(low_part, k[i][0].x, k[i][1].x, k[i][0].y, k[i][1].y, low.x, low.y);
    Mma<T>(c, k[i][0].z, k[i][1].z, k[i][0].w, k[i][1].w, high.z, high.w);
    Mma<T>(low_part, k[i][0].z, k[i][1].z, k[i][0].w, k[i][1].w, low.z, low.w);
  }
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) c[j] += low_part[j];
}

// Turns scores into weights, and scales what is there already.
template <uint32_t kChunks>
__device__ void Soften(float (&c)[4], TensorState<kChunks>& state) {
#pragma unroll
  for (uint32_t h = 0; h < 2; ++h) {
    float max = fmaxf(c[h], c[2 + h]);
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
      max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, offset));
    }
    max = fmaxf(max, state.max[h]);
    const float keep = exp2f(state.max[h] - max);
    state.max[h] = max;
    c[h] = exp2f(c[h] - max);
    c[2 + h] = exp2f(c[2 + h] - max);
    state.sum[h] = state.sum[h] * keep + c[h] + c[2 + h];
#pragma unroll
    for (uint32_t i = 0; i < kChunks; ++i) {
#pragma unroll
      for (uint32_t m = 0; m < 2; ++m) {
        state.out[i][m][h] *= keep;
        state.out[i][m][2 + h] *= keep;
      }
    }
  }
}

template <typename T, uint32_t kChunks>
__device__ void AddValues(const uint4 (&v)[kChunks][2], const float (&p)[4],
                          TensorState<kChunks>& state) {
  uint32_t high[2], low[2];
  SplitPair<T>(p[0], p[1], high[0], low[0]);
  SplitPair<T>(p[2], p[3], high[1], low[1]);
#pragma unroll
  for (uint32_t j = 0; j < 2; ++j) {
    high[j] = Transpose8x8(high[j]);
    low[j] = Transpose8x8(low[j]);
  }
#pragma unroll
  for (uint32_t i = 0; i < kChunks; ++i) {
    const uint32_t first[4] = {v[i][0].x, v[i][0].y, v[i][0].z, v[i][0].w};
    const uint32_t second[4] = {v[i][1].x, v[i][1].y, v[i][1].z, v[i][1].w};
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
      const uint32_t a0 = Transpose8x8(first[2 * m]), a1 = Transpose8x8(first[2 * m + 1]);
      const uint32_t a2 = Transpose8x8(second[2 * m]), a3 = Transpose8x8(second[2 * m + 1]);
      Mma<T>(state.out[i][m], a0, a1, a2, a3, high[0], high[1]);
      Mma<T>(state.out[i][m], a0, a1, a2, a3, low[0], low[1]);
    }
  }
}

template <uint32_t kChunks>
__device__ void WriteScores(const AttendArgs& args, const AttendItem& item, uint32_t token,
                            uint32_t lane, const float (&c)[4]) {
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    const uint32_t t = token + j / 2 * 8, head = lane % 4 * 2 + j % 2;
    if (t >= item.token_end || head >= item.num_q_heads) continue;
    const size_t row = size_t{item.row} * args.geometry.num_q_heads + item.first_q_head + head;
    args.scores[row * args.score_stride + t] = c[j];
  }
}

// One tile of tokens from `begin`; those beyond the item's end get weight 0 (and read the last token instead).
template <typename T, uint32_t kChunks>
__device__ void AttendTile(const AttendArgs& args, const AttendItem& item, const DecodeRowDesc& row,
                           const T* k_head, const T* v_head, uint32_t begin, uint32_t lane,
                           const Shared<kChunks>& shared, TensorState<kChunks>& state) {
  const uint32_t token = begin + lane / 4, last = item.token_end - 1;
  const size_t lane_offset = lane % 4 * 8;
  const size_t first = size_t{SlotOf(row, min(token, last))} * (kChunks * kChunk) + lane_offset;
  const size_t second =
      size_t{SlotOf(row, min(token + 8, last))} * (kChunks * kChunk) + lane_offset;
  uint4 k[kChunks][2], v[kChunks][2];
#pragma unroll
  for (uint32_t i = 0; i < kChunks; ++i) {
    k[i][0] = LoadStreaming(k_head + first + i * kChunk);
    k[i][1] = LoadStreaming(k_head + second + i * kChunk);
  }
#pragma unroll
  for (uint32_t i = 0; i < kChunks; ++i) {
    v[i][0] = LoadStreaming(v_head + first + i * kChunk);
    v[i][1] = LoadStreaming(v_head + second + i * kChunk);
  }
  float c[4] = {};
  Scores<T, kChunks>(k, shared, lane, c);
  if (args.scores != nullptr) WriteScores<kChunks>(args, item, token, lane, c);
  if (token > last) c[0] = c[1] = -INFINITY;
  if (token + 8 > last) c[2] = c[3] = -INFINITY;
  Soften<kChunks>(c, state);
  AddValues<T, kChunks>(v, c, state);
}

template <uint32_t kChunks>
__device__ void ShareState(const TensorState<kChunks>& state, uint32_t warp, uint32_t lane,
                           Shared<kChunks>& shared) {
  const uint32_t g = lane / 4, t = lane % 4;
#pragma unroll
  for (uint32_t h = 0; h < 2; ++h) {
    float sum = state.sum[h];
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    if (g == 0) {
      shared.max_sum[warp][2 * t + h][0] = state.max[h];
      shared.max_sum[warp][2 * t + h][1] = sum;
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < kChunks; ++i) {
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
      // Row g of an 8x8 transposed from register `reg` of the load is element 8 (g / 2) + 2 reg + g % 2 of the chunk.
      const uint32_t m = j / 4, reg = 2 * m + j % 4 / 2;
      const uint32_t d = i * kChunk + 8 * (g / 2) + 2 * reg + g % 2;
      shared.out[warp][2 * t + j % 2][d] = state.out[i][m][j % 4];
    }
  }
}

// Puts the warps together in their order, and writes the item's partials.
template <uint32_t kChunks>
__device__ void WriteItem(const AttendArgs& args, const AttendItem& item, uint32_t warp,
                          uint32_t lane, const Shared<kChunks>& shared) {
  constexpr uint32_t kHeadDim = kChunks * kChunk;
  for (uint32_t h = warp; h < item.num_q_heads; h += kWarps) {
    float max = -INFINITY;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) max = fmaxf(max, shared.max_sum[w][h][0]);
    float weight[kWarps], sum = 0;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) {
      weight[w] = exp2f(shared.max_sum[w][h][0] - max);
      sum += shared.max_sum[w][h][1] * weight[w];
    }
    const size_t idx = WorkspaceIdx(args, item, h);
#pragma unroll
    for (uint32_t i = 0; i < kChunks; ++i) {
      const uint32_t d = i * kChunk + lane;
      float total = 0;
#pragma unroll
      for (uint32_t w = 0; w < kWarps; ++w) total += shared.out[w][h][d] * weight[w];
      args.workspace.out[idx * kHeadDim + d] = total;
    }
    if (lane == 0) {
      args.workspace.max_sum[idx * 2] = max;
      args.workspace.max_sum[idx * 2 + 1] = sum;
    }
  }
}

template <typename T, uint32_t kChunks>
__global__ void __launch_bounds__(kWarps* kWarpSize) AttendTensorKernel(const AttendArgs args) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<Shared<kChunks>*>(memory);
  BeginKernel();
  BuildItemTable(args, kHeads, shared.table);
  const uint32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  for (uint32_t i = blockIdx.x; i < shared.table.first_item[args.num_rows]; i += gridDim.x) {
    const AttendItem item = FindItem(args, kHeads, shared.table, i);
    LoadQuery<T, kChunks>(args, item, shared);
    __syncthreads();
    const DecodeRowDesc row = args.rows[item.row];
    const T* region = reinterpret_cast<const T*>(row.region);
    const T* k = region + KvHeadOffset(row, args.geometry, args.layer, 0, item.kv_head);
    const T* v = region + KvHeadOffset(row, args.geometry, args.layer, 1, item.kv_head);
    TensorState<kChunks> state;
    for (uint32_t begin = item.token_begin + warp * kTileTokens; begin < item.token_end;
         begin += kWarps * kTileTokens) {
      AttendTile<T, kChunks>(args, item, row, k, v, begin, lane, shared, state);
    }
    ShareState<kChunks>(state, warp, lane, shared);
    __syncthreads();
    WriteItem<kChunks>(args, item, warp, lane, shared);
    // The next item's LoadQuery writes what no thread reads any more; its barrier keeps ShareState behind WriteItem.
  }
}

template <typename T, uint32_t kChunks>
cudaError_t LaunchTensor(const AttendArgs& args, const Launch& launch) {
  const auto kernel = AttendTensorKernel<T, kChunks>;
  constexpr size_t kSharedBytes = sizeof(Shared<kChunks>);
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(kSharedBytes));
  if (error != cudaSuccess) return error;
  uint32_t blocks = 0;
  error = ResidentBlocks(kernel, kWarps * kWarpSize, kSharedBytes, &blocks);
  if (error != cudaSuccess) return error;
  return LaunchKernel(launch, kernel, dim3(blocks), kWarps * kWarpSize, kSharedBytes, args);
}

template <typename T>
cudaError_t LaunchForHeadDim(const AttendArgs& args, const Launch& launch) {
  switch (args.geometry.head_dim) {
    case 32:
      return LaunchTensor<T, 1>(args, launch);
    case 64:
      return LaunchTensor<T, 2>(args, launch);
    case 96:
      return LaunchTensor<T, 3>(args, launch);
    case 128:
      return LaunchTensor<T, 4>(args, launch);
    case 256:
      return LaunchTensor<T, 8>(args, launch);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

bool TensorCoresServe(const AttendArgs& args) {
  const uint32_t head_dim = args.geometry.head_dim;
  return args.kv_dtype != DType::kF32 &&
         (head_dim == 32 || head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256);
}

cudaError_t AttendOnTensorCores(const AttendArgs& args, const Launch& launch) {
  if (args.kv_dtype == DType::kBf16) return LaunchForHeadDim<__nv_bfloat16>(args, launch);
  return LaunchForHeadDim<__half>(args, launch);
}

}  // namespace tributary::gpu
