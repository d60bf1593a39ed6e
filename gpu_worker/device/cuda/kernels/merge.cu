#include "gpu_worker/device/cuda/kernels/merge.h"

#include "attention/merge.h"
#include "gpu_worker/device/cuda/kernels/attend_plan.cuh"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 8;
constexpr uint32_t kThreads = kWarps * kWarpSize;
constexpr uint32_t kMaxHeadDim = 256;  // at most kThreads: a thread folds one element
constexpr uint32_t kMaxSlots = 64;
constexpr float kLn2 = 0.693147180559945309f;

struct Shared {
  float max[kWarps];
  float sum[kWarps];
  float4 out[kWarps][kMaxHeadDim / 4];  // of the warps, then of as many slots
  uint32_t num_slots;
  float slot_lse_ln[kMaxSlots];
};

// Each warp folds every kWarps-th split; lane l has the vectors l and, for head_dim above 128, l + 32.
template <uint32_t kVectors>
__device__ void FoldSplits(const MergeArgs& args, uint32_t num_splits, size_t head, Shared& shared) {
  const uint32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const uint32_t vectors = args.geometry.head_dim / 4;
  const auto* const max_sum = reinterpret_cast<const float2*>(args.workspace.max_sum) + head * args.rule.max_splits;
  const auto* const outs = reinterpret_cast<const float4*>(args.workspace.out) + head * args.rule.max_splits * vectors;
  float max = -INFINITY, sum = 0;
  float4 out[kVectors] = {};
#pragma unroll 4
  for (uint32_t s = warp; s < num_splits; s += kWarps) {
    const float2 split = max_sum[s];
    const float new_max = fmaxf(max, split.x);
    const float keep = exp2f(max - new_max), add = exp2f(split.x - new_max);
    max = new_max;
    sum = sum * keep + split.y * add;
#pragma unroll
    for (uint32_t j = 0; j < kVectors; ++j) {
      const uint32_t i = lane + j * kWarpSize;
      const float4 x = i < vectors ? outs[size_t{s} * vectors + i] : float4{};
      out[j].x = out[j].x * keep + x.x * add;
      out[j].y = out[j].y * keep + x.y * add;
      out[j].z = out[j].z * keep + x.z * add;
      out[j].w = out[j].w * keep + x.w * add;
    }
  }
  if (lane == 0) {
    shared.max[warp] = max;
    shared.sum[warp] = sum;
  }
#pragma unroll
  for (uint32_t j = 0; j < kVectors; ++j) {
    const uint32_t i = lane + j * kWarpSize;
    if (i < vectors) shared.out[warp][i] = out[j];
  }
}

// The warps' folds as one: element `d` of the resident part's out, and its lse_ln.
__device__ float CombineWarps(const Shared& shared, uint32_t d, float* lse_ln) {
  float max = -INFINITY;
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) max = fmaxf(max, shared.max[w]);
  *lse_ln = -INFINITY;
  if (max == -INFINITY) return 0.0f;
  float out = 0, sum = 0;
#pragma unroll
  for (uint32_t w = 0; w < kWarps; ++w) {
    if (shared.max[w] == -INFINITY) continue;
    const float weight = exp2f(shared.max[w] - max);
    sum += shared.sum[w] * weight;
    out += reinterpret_cast<const float*>(shared.out[w])[d] * weight;
  }
  *lse_ln = (max + log2f(sum)) * kLn2;
  return out / sum;
}

// Brings the slots from `begin` on, one for each warp, into shared memory.
__device__ void LoadSlots(const MergeArgs& args, uint32_t row, uint32_t q_head, uint32_t begin, Shared& shared) {
  const uint32_t warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const uint32_t slot = begin + warp, vectors = args.geometry.head_dim / 4;
  if (slot >= shared.num_slots) return;
  const size_t head = (size_t{row} * args.max_slots + slot) * args.geometry.num_q_heads + q_head;
  const auto* const out = reinterpret_cast<const float4*>(args.slot_out) + head * vectors;
  if (lane == 0) shared.slot_lse_ln[slot] = args.slot_lse_ln[head];
  for (uint32_t i = lane; i < vectors; i += kWarpSize) shared.out[warp][i] = out[i];
}

// One block for each (query head, row).
template <uint32_t kVectors>
__global__ void __launch_bounds__(kThreads) MergeKernel(const MergeArgs args) {
  LetSuccessorStart();
  __shared__ Shared shared;
  const uint32_t q_head = blockIdx.x, row = blockIdx.y, d = threadIdx.x;
  const size_t head = size_t{row} * args.geometry.num_q_heads + q_head;
  const SplitPlan plan = PlanSplits(args.rows[row], args.rule);
  WaitForPredecessor();
  if (threadIdx.x == 0) {
    shared.num_slots = args.num_slots == nullptr ? 0 : min(args.num_slots[row], args.max_slots);
  }
  FoldSplits<kVectors>(args, plan.num_splits, head, shared);
  __syncthreads();
  const bool has_element = d < args.geometry.head_dim;
  float resident_lse_ln;
  float out = CombineWarps(shared, has_element ? d : 0, &resident_lse_ln);
  if (args.sink_logits != nullptr) out *= FoldSink(args.sink_logits[q_head], &resident_lse_ln);
  const bool gives_resident = args.resident_of_all_rows || args.rows[row].wants_resident_partial;
  if (gives_resident && has_element && args.resident_out != nullptr) {
    args.resident_out[head * args.geometry.head_dim + d] = out;
  }

  MergeState state;
  state.Fold(resident_lse_ln);
  for (uint32_t begin = 0; begin < shared.num_slots; begin += kWarps) {
    __syncthreads();  // shared.out has been read
    LoadSlots(args, row, q_head, begin, shared);
    __syncthreads();
    const uint32_t end = min(begin + kWarps, shared.num_slots);
    for (uint32_t s = begin; s < end && has_element; ++s) {
      const MergeWeights weights = state.Fold(shared.slot_lse_ln[s]);
      if (weights.keep == 1.0f && weights.add == 0.0f) continue;  // empty: its out may be anything
      const float add = reinterpret_cast<const float*>(shared.out[s - begin])[d];
      out = out * weights.keep + add * weights.add;
    }
  }
  if (!has_element) return;
  StoreAs(args.out, args.out_dtype, head * args.geometry.head_dim + d, out * state.Normaliser());
  if (d != 0) return;
  if (gives_resident && args.resident_lse_ln != nullptr) args.resident_lse_ln[head] = resident_lse_ln;
  if (args.merged_lse_ln != nullptr) args.merged_lse_ln[head] = state.LseLn();
}

template <uint32_t kVectors>
cudaError_t LaunchMerge(const MergeArgs& args, const Launch& launch) {
  // Bytes: rows x q_heads x ((splits + slots) x (head_dim x 4 + 8) read + head_dim x out dtype written), all of it just
  // written, in L2. Ceiling: a launch; with many slots L2.
  return LaunchKernel(launch, MergeKernel<kVectors>, dim3(args.geometry.num_q_heads, args.num_rows), kThreads, 0, args);
}

}  // namespace

cudaError_t MergePartials(const MergeArgs& args, const Launch& launch) {
  if (!Serves(args.geometry) || args.num_rows == 0 || args.num_rows > kMaxDecodeRows || args.rule.split_tokens == 0 ||
      args.rule.max_splits == 0 || !IsFloatDType(args.out_dtype) ||
      (args.num_slots != nullptr && (args.max_slots == 0 || args.max_slots > kMaxSlots))) {
    return cudaErrorInvalidValue;
  }
  if (args.geometry.head_dim <= 128) return LaunchMerge<1>(args, launch);
  return LaunchMerge<2>(args, launch);
}

}  // namespace tributary::gpu
