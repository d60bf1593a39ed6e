#include "attention/merge.h"
#include "gpu_worker/device/cuda/kernels/attend_plan.cuh"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"
#include "gpu_worker/device/cuda/kernels/merge.h"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kThreads = kWarps * kWarpSize;
constexpr uint32_t kMaxSlots = 64;
constexpr uint32_t kSlotsAtOnce =
    4;  // loads in flight: one from the host's memory takes about a microsecond
constexpr float kLn2 = 0.693147180559945309f;

template <uint32_t kPerLane>
struct Shared {
  float max[kWarps];
  float sum[kWarps];
  float out[kWarps][kPerLane * kWarpSize];
  uint32_t num_slots;
  float slot_lse_ln[kMaxSlots];
};

// Each warp folds every kWarps-th split.
template <uint32_t kPerLane>
__device__ void FoldSplits(const MergeArgs& args, uint32_t num_splits, size_t head,
                           Shared<kPerLane>& shared) {
  const uint32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const uint32_t head_dim = args.geometry.head_dim;
  const size_t first = head * args.rule.max_splits;
  float max = -INFINITY, sum = 0, out[kPerLane] = {};
#pragma unroll 4
  for (uint32_t s = warp; s < num_splits; s += kWarps) {
    const float split_max = args.workspace.max_sum[(first + s) * 2];
    const float split_sum = args.workspace.max_sum[(first + s) * 2 + 1];
    const float new_max = fmaxf(max, split_max);
    const float keep = exp2f(max - new_max);
    const float add = exp2f(split_max - new_max);
    max = new_max;
    sum = sum * keep + split_sum * add;
#pragma unroll
    for (uint32_t j = 0; j < kPerLane; ++j) {
      const uint32_t d = lane + j * kWarpSize;
      const float x = d < head_dim ? args.workspace.out[(first + s) * head_dim + d] : 0.0f;
      out[j] = out[j] * keep + x * add;
    }
  }
  if (lane == 0) {
    shared.max[warp] = max;
    shared.sum[warp] = sum;
  }
#pragma unroll
  for (uint32_t j = 0; j < kPerLane; ++j) shared.out[warp][lane + j * kWarpSize] = out[j];
}

// Waits for the host, and reads what is small: how many slots, and their lse_ln. Ends with a barrier.
template <uint32_t kPerLane>
__device__ void ReadSlotHeads(const MergeArgs& args, uint32_t row, uint32_t q_head,
                              Shared<kPerLane>& shared) {
  if (threadIdx.x == 0) {
    if (args.await.flag != nullptr) AwaitOneThread(args.await);
    const uint32_t asked = args.num_slots == nullptr ? 0 : __ldcv(args.num_slots + row);
    shared.num_slots = min(asked, args.max_slots);
  }
  __syncthreads();
  for (uint32_t s = threadIdx.x; s < shared.num_slots; s += blockDim.x) {
    const size_t slot = size_t{row} * args.max_slots + s;
    shared.slot_lse_ln[s] = __ldcv(args.slot_lse_ln + slot * args.geometry.num_q_heads + q_head);
  }
  __syncthreads();
}

// Element d of the merge of `resident` with the slots, and the state with which it ended.
template <uint32_t kPerLane>
__device__ float FoldSlots(const MergeArgs& args, uint32_t row, uint32_t q_head, uint32_t d,
                           float resident, float resident_lse_ln, const Shared<kPerLane>& shared,
                           MergeState& state) {
  state.Fold(resident_lse_ln);
  float out = resident;
  for (uint32_t begin = 0; begin < shared.num_slots; begin += kSlotsAtOnce) {
    float add[kSlotsAtOnce];
#pragma unroll
    for (uint32_t j = 0; j < kSlotsAtOnce; ++j) {
      if (begin + j >= shared.num_slots) continue;
      const size_t slot = size_t{row} * args.max_slots + begin + j;
      const size_t head = slot * args.geometry.num_q_heads + q_head;
      add[j] = __ldcv(args.slot_out + head * args.geometry.head_dim + d);
    }
#pragma unroll
    for (uint32_t j = 0; j < kSlotsAtOnce; ++j) {
      if (begin + j >= shared.num_slots) continue;
      const MergeWeights weights = state.Fold(shared.slot_lse_ln[begin + j]);
      if (weights.keep == 1.0f && weights.add == 0.0f) continue;  // empty: add may be anything
      out = out * weights.keep + add[j] * weights.add;
    }
  }
  return out * state.Normaliser();
}

// One block for each (query head, row).
template <uint32_t kPerLane>
__global__ void __launch_bounds__(kThreads) MergeKernel(const MergeArgs args) {
  BeginKernel();
  __shared__ Shared<kPerLane> shared;
  const uint32_t q_head = blockIdx.x, row = blockIdx.y;
  const size_t head = size_t{row} * args.geometry.num_q_heads + q_head;
  const SplitPlan plan = PlanSplits(args.rows[row], args.rule);
  FoldSplits<kPerLane>(args, plan.num_splits, head, shared);
  ReadSlotHeads<kPerLane>(args, row, q_head, shared);

  float max = -INFINITY;
  for (uint32_t w = 0; w < kWarps; ++w) max = fmaxf(max, shared.max[w]);
  float weight[kWarps], sum = 0;
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) {
    weight[w] = plan.num_splits == 0 ? 0.0f : exp2f(shared.max[w] - max);
    sum += shared.sum[w] * weight[w];
  }
  const float normaliser = plan.num_splits == 0 ? 0.0f : 1.0f / sum;
  const float resident_lse_ln = plan.num_splits == 0 ? -INFINITY : (max + log2f(sum)) * kLn2;
  for (uint32_t d = threadIdx.x; d < args.geometry.head_dim; d += kThreads) {
    float resident = 0;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) resident += shared.out[w][d] * weight[w];
    MergeState state;
    const float out = FoldSlots<kPerLane>(args, row, q_head, d, resident * normaliser,
                                          resident_lse_ln, shared, state);
    StoreAs(args.out, args.out_dtype, head * args.geometry.head_dim + d, out);
    if (d != 0) continue;
    if (args.resident_lse_ln != nullptr) args.resident_lse_ln[head] = resident_lse_ln;
    if (args.merged_lse_ln != nullptr) args.merged_lse_ln[head] = state.LseLn();
  }
}

template <uint32_t kPerLane>
cudaError_t LaunchMerge(const MergeArgs& args, const Launch& launch) {
  return LaunchKernel(launch, MergeKernel<kPerLane>, dim3(args.geometry.num_q_heads, args.num_rows),
                      kThreads, 0, args);
}

}  // namespace

cudaError_t MergePartials(const MergeArgs& args, const Launch& launch) {
  const bool awaits = args.await.flag != nullptr;
  if (!Serves(args.geometry) || args.num_rows == 0 || args.num_rows > kMaxDecodeRows ||
      args.rule.split_tokens == 0 || args.rule.max_splits == 0 || !IsFloatDType(args.out_dtype) ||
      (args.num_slots != nullptr && (args.max_slots == 0 || args.max_slots > kMaxSlots)) ||
      (awaits && (args.await.value == nullptr || args.await.error == nullptr))) {
    return cudaErrorInvalidValue;
  }
  if (args.geometry.head_dim <= 32) return LaunchMerge<1>(args, launch);
  if (args.geometry.head_dim <= 64) return LaunchMerge<2>(args, launch);
  if (args.geometry.head_dim <= 128) return LaunchMerge<4>(args, launch);
  return LaunchMerge<8>(args, launch);
}

}  // namespace tributary::gpu
