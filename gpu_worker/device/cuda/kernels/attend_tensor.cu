// Decode attention on tensor cores.
//
// A warp takes 16 tokens at a time and copies them to shared memory of its own, some tiles ahead (cp.async), 512
// contiguous bytes at once. Lane (g, t) = (lane / 4, lane % 4) reads 16 bytes back, elements 8t to 8t + 7 of each chunk
// of 32, of tokens g and g + 8. The order of elements inside a product's k does not matter as long as both operands
// agree, so registers hold them as they come:
//   S^T [16 tokens x 8 heads] = K [16 x 32 of head_dim] q^T: K is operand A as loaded; q is laid out to fit.
//   O^T [16 of head_dim x 8 heads] = V^T [16 x 16 tokens] P^T: movmatrix transposes V and P, 8x8 at a time.
// Softmax: each lane has two heads in S^T and in O^T, the same two, so scaling needs no exchange.
#include "gpu_worker/device/cuda/kernels/attend_plan.cuh"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"
#include "gpu_worker/device/cuda/kernels/tensor_core.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kHeads = 8;   // n of the product: query heads of one block, zeros where there are fewer
constexpr uint32_t kChunk = 32;  // elements of head_dim in one step of 4 lanes x 16 bytes
constexpr float kLog2E = 1.44269504088896341f;

// A tile of K or V: [token][head_dim], in 16-byte units, whose order UnitOf() knows.
template <uint32_t kChunks>
struct Tile {
  static constexpr uint32_t kRowUnits = kChunks * 4;
  static constexpr uint32_t kUnits = kTileTokens * kRowUnits;
  uint4 units[kUnits];
};
template <uint32_t kChunks>
struct TilePair {
  Tile<kChunks> k, v;
};

// Place of the n-th unit. Eight lanes read two tokens, 64 bytes of each, at once: where a token takes a multiple of 128
// bytes, every other token has the halves of each 128 swapped, so that the two lie in different banks.
template <uint32_t kChunks>
__device__ uint32_t UnitOf(uint32_t n) {
  if (kChunks % 2 != 0) return n;
  return n ^ (n / Tile<kChunks>::kRowUnits % 2 * 4);
}

// What lane (g, t) has of chunk i: unit 4i + t of token g, and of token g + 8.
template <uint32_t kChunks>
struct LaneUnits {
  uint32_t even, odd;  // of chunk 0, and where chunk 0 would be for odd chunks
  __device__ explicit LaneUnits(uint32_t lane) {
    const uint32_t g = lane / 4, n = g * Tile<kChunks>::kRowUnits + lane % 4;
    const uint32_t swap = kChunks % 2 != 0 ? 0 : g % 2 * 4;
    even = n + swap;
    odd = n - swap;
  }
  __device__ uint32_t At(uint32_t chunk, uint32_t half) const {
    return (chunk % 2 == 0 ? even : odd) + 4 * chunk + half * 8 * Tile<kChunks>::kRowUnits;
  }
};

// Shared memory of a block. The stage that was used last serves to put the warps' out together, [head][head_dim] in
// f32.
template <uint32_t kChunks, uint32_t kStages>
struct Shared {
  TilePair<kChunks> ring[kStages][kWarps];
  uint4 q[kChunks][2][kWarpSize];  // operand B of each chunk: high parts, low parts
  float max_sum[kWarps][kHeads][2];
  ItemTable table;
};

// A warp's running softmax, base 2. Heads 2t and 2t + 1 of the lane.
template <uint32_t kChunks>
struct TensorState {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0, 0};
  float out[kChunks][2][4] = {};
};

// What a thread reads of q for the item: elements 8t to 8t + 7 of a chunk of head g, for the chunks warp, warp + 4, ...
template <uint32_t kChunks>
struct QueryPart {
  float x[(kChunks + kWarps - 1) / kWarps][8];
};

template <uint32_t kChunks>
__device__ void LoadQuery(const AttendArgs& args, const AttendItem& item, uint32_t warp, uint32_t lane,
                          QueryPart<kChunks>& part) {
  const uint32_t head = lane / 4;
  const size_t begin =
      (size_t{item.row} * args.geometry.num_q_heads + item.first_q_head + head) * (kChunks * kChunk) + lane % 4 * 8;
#pragma unroll
  for (uint32_t i = 0; i < (kChunks + kWarps - 1) / kWarps; ++i) {
    const uint32_t chunk = warp + i * kWarps;
    const bool there = head < item.num_q_heads && chunk < kChunks;
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) part.x[i][j] = there ? args.q[begin + chunk * kChunk + j] : 0.0f;
  }
}

template <typename T, uint32_t kChunks, uint32_t kStages>
__device__ void ShareQuery(const QueryPart<kChunks>& part, float scale, uint32_t warp, uint32_t lane,
                           Shared<kChunks, kStages>& shared) {
#pragma unroll
  for (uint32_t i = 0; i < (kChunks + kWarps - 1) / kWarps; ++i) {
    const uint32_t chunk = warp + i * kWarps;
    if (chunk >= kChunks) continue;
    const float(&x)[8] = part.x[i];
    uint4 high, low;
    SplitPair<T>(x[0] * scale, x[1] * scale, high.x, low.x);
    SplitPair<T>(x[2] * scale, x[3] * scale, high.y, low.y);
    SplitPair<T>(x[4] * scale, x[5] * scale, high.z, low.z);
    SplitPair<T>(x[6] * scale, x[7] * scale, high.w, low.w);
    shared.q[chunk][0][lane] = high;
    shared.q[chunk][1][lane] = low;
  }
}

// Scores of a tile: c[0], c[1] of token g, c[2], c[3] of token g + 8.
template <typename T, uint32_t kChunks>
__device__ void Scores(const Tile<kChunks>& tile, const uint4 (&q)[kChunks][2][kWarpSize], uint32_t lane,
                       float (&c)[4]) {
  const LaneUnits<kChunks> at(lane);
  float low_part[4] = {};
#pragma unroll
  for (uint32_t i = 0; i < kChunks; ++i) {
    const uint4 k0 = tile.units[at.At(i, 0)], k1 = tile.units[at.At(i, 1)];
    const uint4 high = q[i][0][lane], low = q[i][1][lane];
    Mma<T>(c, k0.x, k1.x, k0.y, k1.y, high.x, high.y);
    Mma<T>(low_part, k0.x, k1.x, k0.y, k1.y, low.x, low.y);
    Mma<T>(c, k0.z, k1.z, k0.w, k1.w, high.z, high.w);
    Mma<T>(low_part, k0.z, k1.z, k0.w, k1.w, low.z, low.w);
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
__device__ void AddValues(const Tile<kChunks>& tile, uint32_t lane, const float (&p)[4], TensorState<kChunks>& state) {
  const LaneUnits<kChunks> at(lane);
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
    const uint4 v0 = tile.units[at.At(i, 0)], v1 = tile.units[at.At(i, 1)];
    const uint32_t first[4] = {v0.x, v0.y, v0.z, v0.w};
    const uint32_t second[4] = {v1.x, v1.y, v1.z, v1.w};
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
      const uint32_t a0 = Transpose8x8(first[2 * m]), a1 = Transpose8x8(first[2 * m + 1]);
      const uint32_t a2 = Transpose8x8(second[2 * m]), a3 = Transpose8x8(second[2 * m + 1]);
      Mma<T>(state.out[i][m], a0, a1, a2, a3, high[0], high[1]);
      Mma<T>(state.out[i][m], a0, a1, a2, a3, low[0], low[1]);
    }
  }
}

__device__ void WriteScores(const DecodeRowDesc& row, const AttendItem& item, uint32_t token, uint32_t lane,
                            const float (&c)[4]) {
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    const uint32_t t = token + j / 2 * 8, head = lane % 4 * 2 + j % 2;
    if (t >= item.token_end || head >= item.num_q_heads) continue;
    row.scores[size_t{item.first_q_head + head} * row.capacity_tokens + SlotOf(row, t)] = c[j];
  }
}

// An item with what its loads need.
template <typename T>
struct Work {
  AttendItem item;
  DecodeRowDesc row;
  const T* k;
  const T* v;
  // Of one tile for each warp; at least as many as are loaded ahead, so the last ones may be empty.
  uint32_t rounds;
};

template <typename T, uint32_t kStages>
__device__ Work<T> MakeWork(const AttendArgs& args, const ItemTable& table, uint32_t item_idx) {
  Work<T> work;
  work.item = FindItem(args, kHeads, table, item_idx);
  work.row = args.rows[work.item.row];
  const T* region = reinterpret_cast<const T*>(work.row.region);
  work.k = region + KvHeadOffset(work.row, args.geometry, args.layer, 0, work.item.kv_head);
  work.v = region + KvHeadOffset(work.row, args.geometry, args.layer, 1, work.item.kv_head);
  constexpr uint32_t kRoundTokens = kWarps * kTileTokens;
  const uint32_t tokens = work.item.token_end - work.item.token_begin;
  work.rounds = max((tokens + kRoundTokens - 1) / kRoundTokens, kStages - 1);
  return work;
}

template <typename T>
__device__ uint32_t TileBegin(const Work<T>& work, uint32_t round, uint32_t warp) {
  return work.item.token_begin + (round * kWarps + warp) * kTileTokens;
}

// Brings the first tokens of a block's first item into the L2 cache. It may run before the kernel's predecessor has
// ended: the cache sees what is written to memory later.
template <typename T, uint32_t kChunks>
__device__ void PrefetchToL2(const Work<T>& work) {
  constexpr uint32_t kPrefetchTokens = 128, kLineBytes = 128;
  constexpr uint32_t kLines = (kChunks * kChunk * sizeof(T) + kLineBytes - 1) / kLineBytes;
  const uint32_t tokens = min(work.item.token_end - work.item.token_begin, kPrefetchTokens);
  for (uint32_t i = threadIdx.x; i < tokens * kLines; i += kWarps * kWarpSize) {
    const uint32_t slot = SlotOf(work.row, work.item.token_begin + i / kLines);
    const size_t offset = size_t{slot} * (kChunks * kChunk) + i % kLines * (kLineBytes / sizeof(T));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(work.k + offset));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(work.v + offset));
  }
}

// Starts the copy of the warp's tile of a round, if it has one: tokens beyond the item's end read the last one instead.
// Every lane has read what was in the tile before (__syncwarp).
template <typename T, uint32_t kChunks>
__device__ void StartTile(const Work<T>& work, bool wanted, uint32_t round, uint32_t warp, uint32_t lane,
                          TilePair<kChunks>& tile) {
  constexpr uint32_t kRowUnits = Tile<kChunks>::kRowUnits, kUnitElements = 8;
  const uint32_t begin = TileBegin(work, round, warp), end = work.item.token_end;
  if (wanted && begin < end) {
    const SlotRun run = SlotRunOf(work.row, begin);
    const bool is_one_run = begin + kTileTokens <= min(end, begin + run.num_tokens);
#pragma unroll
    for (uint32_t j = 0; j < Tile<kChunks>::kUnits / kWarpSize; ++j) {
      const uint32_t n = j * kWarpSize + lane;
      size_t offset;
      if (is_one_run) {
        offset = (size_t{run.slot} * kRowUnits + n) * kUnitElements;
      } else {
        const uint32_t token = min(begin + n / kRowUnits, end - 1);
        offset = (size_t{SlotOf(work.row, token)} * kRowUnits + n % kRowUnits) * kUnitElements;
      }
      CopyAsync(&tile.k.units[UnitOf<kChunks>(n)], work.k + offset);
      CopyAsync(&tile.v.units[UnitOf<kChunks>(n)], work.v + offset);
    }
  }
  CommitCopies();
}

template <typename T, uint32_t kChunks, uint32_t kStages>
__device__ void AttendTile(const AttendArgs& args, const Work<T>& work, uint32_t round, uint32_t stage, uint32_t warp,
                           uint32_t lane, const Shared<kChunks, kStages>& shared, TensorState<kChunks>& state) {
  const uint32_t begin = TileBegin(work, round, warp);
  const uint32_t end = work.item.token_end;
  if (begin >= end) return;
  const uint32_t token = begin + lane / 4;
  const TilePair<kChunks>& tile = shared.ring[stage][warp];
  float c[4] = {};
  Scores<T, kChunks>(tile.k, shared.q, lane, c);
  if (args.keep_scores && work.row.scores != nullptr) {
    WriteScores(work.row, work.item, token, lane, c);
  }
  if (token >= end) c[0] = c[1] = -INFINITY;
  if (token + 8 >= end) c[2] = c[3] = -INFINITY;
  Soften<kChunks>(c, state);
  AddValues<T, kChunks>(tile.v, lane, c, state);
}

// Where a warp leaves its out, [head][head_dim].
template <uint32_t kChunks, uint32_t kStages>
__device__ float* SharedOut(Shared<kChunks, kStages>& shared, uint32_t stage, uint32_t warp) {
  static_assert(kHeads * kChunks * kChunk * sizeof(float) <= sizeof(shared.ring[0][0]));
  return reinterpret_cast<float*>(&shared.ring[stage][warp]);
}

template <uint32_t kChunks, uint32_t kStages>
__device__ void ShareState(const TensorState<kChunks>& state, uint32_t stage, uint32_t warp, uint32_t lane,
                           Shared<kChunks, kStages>& shared) {
  const uint32_t g = lane / 4, t = lane % 4;
  __syncwarp();  // every lane has read its part of the stage
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
  float* const out = SharedOut(shared, stage, warp);
#pragma unroll
  for (uint32_t i = 0; i < kChunks; ++i) {
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
      // Row g of an 8x8 transposed from register `reg` of the load is element 8 (g / 2) + 2 reg + g % 2 of the chunk.
      const uint32_t m = j / 4, reg = 2 * m + j % 4 / 2;
      const uint32_t d = i * kChunk + 8 * (g / 2) + 2 * reg + g % 2;
      out[(2 * t + j % 2) * (kChunks * kChunk) + d] = state.out[i][m][j % 4];
    }
  }
}

// Puts the warps together in their order, and writes the item's partials.
template <uint32_t kChunks, uint32_t kStages>
__device__ void WriteItem(const AttendArgs& args, const AttendItem& item, uint32_t stage, uint32_t warp, uint32_t lane,
                          Shared<kChunks, kStages>& shared) {
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
      for (uint32_t w = 0; w < kWarps; ++w) {
        total += SharedOut(shared, stage, w)[h * kHeadDim + d] * weight[w];
      }
      args.workspace.out[idx * kHeadDim + d] = total;
    }
    if (lane == 0) {
      args.workspace.max_sum[idx * 2] = max;
      args.workspace.max_sum[idx * 2 + 1] = sum;
    }
  }
}

// Blocks take items in turn. The ring of stages goes on across items: the last rounds of one load the first of the
// next. All warps go through the same number of rounds, so they agree on the stage.
template <typename T, uint32_t kChunks, uint32_t kStages>
__global__ void __launch_bounds__(kWarps* kWarpSize) AttendTensorKernel(const AttendArgs args) {
  extern __shared__ uint4 memory[];
  auto& shared = *reinterpret_cast<Shared<kChunks, kStages>*>(memory);
  LetSuccessorStart();
  BuildItemTable(args, kHeads, shared.table);
  const uint32_t num_items = shared.table.first_item[args.num_rows];
  const uint32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const float scale = args.softmax_scale * kLog2E;
  Work<T> work{};
  if (blockIdx.x < num_items) {
    work = MakeWork<T, kStages>(args, shared.table, blockIdx.x);
    PrefetchToL2<T, kChunks>(work);
  }
  WaitForPredecessor();
  if (blockIdx.x >= num_items) return;

  uint32_t stage = 0;  // of the next round
#pragma unroll
  for (uint32_t s = 0; s + 1 < kStages; ++s) {
    StartTile<T, kChunks>(work, true, s, warp, lane, shared.ring[s][warp]);
  }
  QueryPart<kChunks> query;
  LoadQuery<kChunks>(args, work.item, warp, lane, query);
  for (uint32_t item_idx = blockIdx.x; item_idx < num_items; item_idx += gridDim.x) {
    const bool more = item_idx + gridDim.x < num_items;
    Work<T> next = work;
    if (more) next = MakeWork<T, kStages>(args, shared.table, item_idx + gridDim.x);
    ShareQuery<T>(query, scale, warp, lane, shared);
    __syncthreads();
    TensorState<kChunks> state;
    for (uint32_t round = 0; round < work.rounds; ++round) {
      const uint32_t ahead = round + kStages - 1, ahead_stage = (stage + kStages - 1) % kStages;
      __syncwarp();
      if (ahead < work.rounds) {
        StartTile<T, kChunks>(work, true, ahead, warp, lane, shared.ring[ahead_stage][warp]);
      } else {
        StartTile<T, kChunks>(next, more, ahead - work.rounds, warp, lane, shared.ring[ahead_stage][warp]);
      }
      AwaitCopies<kStages - 1>();
      __syncwarp();  // the other lanes' copies, too
      AttendTile<T, kChunks, kStages>(args, work, round, stage, warp, lane, shared, state);
      stage = (stage + 1) % kStages;
    }
    // The stage just read is free until the next item's first round loads into it, behind a barrier.
    const uint32_t free_stage = (stage + kStages - 1) % kStages;
    if (more) LoadQuery<kChunks>(args, next.item, warp, lane, query);
    ShareState<kChunks, kStages>(state, free_stage, warp, lane, shared);
    __syncthreads();
    WriteItem<kChunks, kStages>(args, work.item, free_stage, warp, lane, shared);
    work = next;
  }
  AwaitCopies<0>();
}

template <typename T, uint32_t kChunks, uint32_t kStages>
cudaError_t LaunchTensor(const AttendArgs& args, const Launch& launch) {
  const auto kernel = AttendTensorKernel<T, kChunks, kStages>;
  constexpr size_t kSharedBytes = sizeof(Shared<kChunks, kStages>);
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kSharedBytes));
  if (error != cudaSuccess) return error;
  uint32_t blocks = 0;
  error = ResidentBlocks(kernel, kWarps * kWarpSize, kSharedBytes, &blocks);
  if (error != cudaSuccess) return error;
  // Bytes: rows x tokens x kv_heads x head_dim x 2 x 2 (K and V) read; with scores tokens x q_heads x 4 written; splits
  // x q_heads x head_dim x 4 written. Ceiling: reading K and V from device memory.
  return LaunchKernel(launch, kernel, dim3(blocks), kWarps * kWarpSize, kSharedBytes, args);
}

// As many stages as leave room for two blocks on a multiprocessor of Hopper; fewer where a block may have less memory.
template <typename T, uint32_t kChunks, uint32_t kStages>
cudaError_t LaunchWithStages(const AttendArgs& args, const Launch& launch) {
  int device = 0, max_bytes = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  const cudaError_t error = cudaDeviceGetAttribute(&max_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error != cudaSuccess) return error;
  if (sizeof(Shared<kChunks, kStages>) <= static_cast<size_t>(max_bytes)) {
    return LaunchTensor<T, kChunks, kStages>(args, launch);
  }
  if (sizeof(Shared<kChunks, 2>) <= static_cast<size_t>(max_bytes)) {
    return LaunchTensor<T, kChunks, 2>(args, launch);
  }
  return AttendPlain(args, launch);
}

template <typename T>
cudaError_t LaunchForHeadDim(const AttendArgs& args, const Launch& launch) {
  switch (args.geometry.head_dim) {
    case 32:
      return LaunchWithStages<T, 1, 4>(args, launch);
    case 64:
      return LaunchWithStages<T, 2, 4>(args, launch);
    case 96:
      return LaunchWithStages<T, 3, 3>(args, launch);
    case 128:
      return LaunchWithStages<T, 4, 3>(args, launch);
    case 256:
      return LaunchWithStages<T, 8, 2>(args, launch);
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
