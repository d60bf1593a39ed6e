// How the attention of a batch is cut into items, and how a fixed number of blocks walks over them: the grid stays the
// same whatever the rows hold, so the launch can live in a graph.
#pragma once

#include <cstdint>

#include "gpu_worker/device/cuda/kernels/attend.h"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {

inline constexpr uint32_t kTileTokens = 16;

struct SplitPlan {
  uint32_t tokens;
  uint32_t split_tokens;
  uint32_t num_splits;
};

__host__ __device__ inline SplitPlan PlanSplits(const DecodeRowDesc& row, const SplitRule& rule) {
  SplitPlan plan{0, rule.split_tokens, 0};
  if (row.region == nullptr) return plan;
  for (const DecodeRowDesc::Range& range : row.attend) plan.tokens += range.end - range.begin;
  const uint32_t least = (plan.tokens + rule.max_splits - 1) / rule.max_splits;
  const uint32_t rounded = (least + kTileTokens - 1) / kTileTokens * kTileTokens;
  if (rounded > plan.split_tokens) plan.split_tokens = rounded;
  plan.num_splits = (plan.tokens + plan.split_tokens - 1) / plan.split_tokens;
  return plan;
}

struct AttendItem {
  uint32_t row;
  uint32_t kv_head;
  uint32_t first_q_head;  // of the model
  uint32_t num_q_heads;   // at most the kernel's heads per block
  uint32_t split;
  uint32_t token_begin;  // of the row's attended tokens
  uint32_t token_end;
};

// Lies in shared memory and says which items belong to which row.
struct ItemTable {
  uint32_t first_item[kMaxDecodeRows + 1];
};

// All threads of the block; ends with a barrier. `heads_per_block`: a group is cut into chunks of so many query heads.
__device__ inline void BuildItemTable(const AttendArgs& args, uint32_t heads_per_block, ItemTable& table) {
  const uint32_t group = args.geometry.num_q_heads / args.geometry.num_kv_heads;
  const uint32_t chunks = (group + heads_per_block - 1) / heads_per_block;
  if (threadIdx.x < kWarpSize) {
    uint32_t before = 0;
    for (uint32_t begin = 0; begin < args.num_rows; begin += kWarpSize) {
      const uint32_t r = begin + threadIdx.x;
      uint32_t items = 0;
      if (r < args.num_rows && args.rows[r].kv_dtype == args.kv_dtype) {
        items = PlanSplits(args.rows[r], args.rule).num_splits * args.geometry.num_kv_heads * chunks;
      }
      uint32_t sum = items;  // inclusive prefix sum over the lanes
      for (uint32_t offset = 1; offset < kWarpSize; offset *= 2) {
        const uint32_t other = __shfl_up_sync(kAllLanes, sum, offset);
        if (threadIdx.x >= offset) sum += other;
      }
      if (r < args.num_rows) table.first_item[r] = before + sum - items;
      before += __shfl_sync(kAllLanes, sum, kWarpSize - 1);
    }
    if (threadIdx.x == 0) table.first_item[args.num_rows] = before;
  }
  __syncthreads();
}

__device__ inline AttendItem FindItem(const AttendArgs& args, uint32_t heads_per_block, const ItemTable& table,
                                      uint32_t item) {
  uint32_t low = 0, high = args.num_rows;  // the last row with first_item <= item
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (table.first_item[middle] <= item) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const KvGeometry& g = args.geometry;
  const uint32_t group = g.num_q_heads / g.num_kv_heads;
  const uint32_t chunks = (group + heads_per_block - 1) / heads_per_block;
  const uint32_t in_row = item - table.first_item[low];
  const uint32_t chunk = in_row % chunks;
  const SplitPlan plan = PlanSplits(args.rows[low], args.rule);
  AttendItem found;
  found.row = low;
  found.split = in_row / chunks % plan.num_splits;
  found.kv_head = in_row / chunks / plan.num_splits;
  found.first_q_head = found.kv_head * group + chunk * heads_per_block;
  found.num_q_heads = min(heads_per_block, group - chunk * heads_per_block);
  found.token_begin = found.split * plan.split_tokens;
  found.token_end = min(found.token_begin + plan.split_tokens, plan.tokens);
  return found;
}

// Returns the index of head_idx (0 to num_q_heads of the item) of the item.
__device__ inline size_t WorkspaceIdx(const AttendArgs& args, const AttendItem& item, uint32_t head_idx) {
  return (size_t{item.row} * args.geometry.num_q_heads + item.first_q_head + head_idx) * args.rule.max_splits +
         item.split;
}

// The two ways to attend.
bool TensorCoresServe(const AttendArgs& args);
cudaError_t AttendOnTensorCores(const AttendArgs& args, const Launch& launch);
cudaError_t AttendPlain(const AttendArgs& args, const Launch& launch);

// Blocks that fill the GPU once, for a kernel with this many threads and this much dynamic shared memory.
template <typename Kernel>
cudaError_t ResidentBlocks(Kernel kernel, uint32_t threads, size_t shared_bytes, uint32_t* blocks) {
  int device = 0, num_sms = 0, per_sm = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  cudaError_t error = cudaDeviceGetAttribute(&num_sms, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, static_cast<int>(threads), shared_bytes);
  *blocks = static_cast<uint32_t>(num_sms * (per_sm < 1 ? 1 : per_sm));
  return error;
}

}  // namespace tributary::gpu
