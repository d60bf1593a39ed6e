// A step's attention weights, into the moving averages of the slots that they belong to.
#include "gpu_worker/device/cuda/policy/hgca/update_maw.h"

#include "gpu_worker/device/cuda/kernels/attend_plan.cuh"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreads = kWarps * kWarpSize;
// The grid may not depend on the rows' tokens: it lives in a graph. Blocks walk over the tokens.
constexpr uint32_t kBlocksPerHead = 8;

// log2 of the sum of exp over all splits of one query head of a row, and over its sink. All lanes of a warp.
__device__ float Lse2(const UpdateMawArgs& args, size_t head, uint32_t num_splits, uint32_t lane) {
  const float* const max_sum = args.workspace.max_sum + head * args.rule.max_splits * 2;
  float max = -INFINITY;
  for (uint32_t s = lane; s < num_splits; s += kWarpSize) max = fmaxf(max, max_sum[2 * s]);
  max = WarpMax(max);
  float sum = 0;
  for (uint32_t s = lane; s < num_splits; s += kWarpSize) {
    sum += max_sum[2 * s + 1] * exp2f(max_sum[2 * s] - max);
  }
  const float lse2 = max + log2f(WarpSum(sum));
  if (args.sink_logits == nullptr) return lse2;
  constexpr float kLog2E = 1.44269504088896341f;
  const float sink = args.sink_logits[head % args.geometry.num_q_heads] * kLog2E;
  const float high = fmaxf(lse2, sink);
  return high + log2f(exp2f(lse2 - high) + exp2f(sink - high));
}

// Blocks [kBlocksPerHead][kv_head][row]. Shared memory: f32 [group].
__global__ void __launch_bounds__(kThreads) UpdateMawKernel(const UpdateMawArgs args) {
  extern __shared__ float lse2[];
  BeginKernel();
  const KvGeometry& g = args.geometry;
  const uint32_t r = blockIdx.z, kv_head = blockIdx.y;
  const DecodeRowDesc& row = args.rows[r];
  if (row.facet_kind != args.facet_kind) return;
  const SplitPlan plan = PlanSplits(row, args.rule);
  if (blockIdx.x * kThreads >= plan.tokens) return;
  const uint32_t group = g.num_q_heads / g.num_kv_heads;
  const size_t first_head = size_t{r} * g.num_q_heads + kv_head * group;
  for (uint32_t i = threadIdx.x / kWarpSize; i < group; i += kWarps) {
    const float value = Lse2(args, first_head + i, plan.num_splits, threadIdx.x % kWarpSize);
    if (threadIdx.x % kWarpSize == 0) lse2[i] = value;
  }
  __syncthreads();
  const MawParams params = reinterpret_cast<const MawWords*>(row.facet_words)->params;
  const GroupAggregate how = params.group_aggregate;
  const float* const scores = row.scores + size_t{kv_head} * group * row.capacity_tokens;
  const size_t heads_before = size_t{args.layer} * g.num_kv_heads + kv_head;
  float* const maw = reinterpret_cast<float*>(row.facet) + heads_before * row.capacity_tokens;
  for (uint32_t t = blockIdx.x * kThreads + threadIdx.x; t < plan.tokens; t += kBlocksPerHead * kThreads) {
    const uint32_t slot = SlotOf(row, t);
    float a = exp2f(scores[slot] - lse2[0]);
    for (uint32_t i = 1; i < group; ++i) {
      a = AddGroupHead(how, a, exp2f(scores[size_t{i} * row.capacity_tokens + slot] - lse2[i]));
    }
    // The slots that this step appended to held other tokens before.
    const bool is_new = slot == row.append_slot || t + row.step_tokens >= plan.tokens;
    const float before = is_new ? NAN : maw[slot];
    maw[slot] = NextMaw(params.alpha, FinishGroup(how, a, group), before);
  }
}

}  // namespace

cudaError_t UpdateMaw(const UpdateMawArgs& args, const Launch& launch) {
  if (args.facet_kind == 0 || !Serves(args.geometry) || args.num_rows == 0 || args.num_rows > kMaxDecodeRows ||
      args.rule.split_tokens == 0 || args.rule.max_splits == 0) {
    return cudaErrorInvalidValue;
  }
  const uint32_t group = args.geometry.num_q_heads / args.geometry.num_kv_heads;
  // Bytes: tokens x (q_heads x 4 read + kv_heads x 8 read and written) per row with a MAW. Ceiling: device memory; the
  // scores were written just now, so L2 while they fit.
  return LaunchKernel(launch, UpdateMawKernel, dim3(kBlocksPerHead, args.geometry.num_kv_heads, args.num_rows),
                      kThreads, group * sizeof(float), args);
}

}  // namespace tributary::gpu
