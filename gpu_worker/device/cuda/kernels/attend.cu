#include "gpu_worker/device/cuda/kernels/attend.h"
#include "gpu_worker/device/cuda/kernels/attend_plan.cuh"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr float kLog2E = 1.44269504088896341f;

__global__ void AttentionWeightsKernel(const AttentionWeightsArgs args) {
  BeginKernel();
  const KvGeometry& g = args.geometry;
  const uint32_t r = blockIdx.z, kv_head = blockIdx.y;
  const uint32_t token = blockIdx.x * blockDim.x + threadIdx.x;
  const SplitPlan plan = PlanSplits(args.rows[r], {kTileTokens, 1});
  if (token >= plan.tokens) return;
  const uint32_t group = g.num_q_heads / g.num_kv_heads;
  float sum = 0;
  for (uint32_t i = 0; i < group; ++i) {
    const size_t head = size_t{r} * g.num_q_heads + kv_head * group + i;
    sum += exp2f(args.scores[head * args.score_stride + token] - args.lse_ln[head] * kLog2E);
  }
  args.weights[(size_t{r} * g.num_kv_heads + kv_head) * args.score_stride + token] =
      sum / static_cast<float>(group);
}

size_t WorkspaceSlots(uint32_t num_rows, const KvGeometry& geometry, const SplitRule& rule) {
  return size_t{num_rows} * geometry.num_q_heads * rule.max_splits;
}

}  // namespace

size_t AttendWorkspaceBytes(uint32_t num_rows, const KvGeometry& geometry, const SplitRule& rule) {
  return WorkspaceSlots(num_rows, geometry, rule) * (geometry.head_dim + 2) * sizeof(float);
}

AttendWorkspace MakeAttendWorkspace(void* memory, uint32_t num_rows, const KvGeometry& geometry,
                                    const SplitRule& rule) {
  AttendWorkspace workspace;
  workspace.out = static_cast<float*>(memory);
  workspace.max_sum = workspace.out + WorkspaceSlots(num_rows, geometry, rule) * geometry.head_dim;
  return workspace;
}

cudaError_t Attend(const AttendArgs& args, const Launch& launch) {
  if (!Serves(args.geometry) || args.num_rows == 0 || args.num_rows > kMaxDecodeRows ||
      args.rule.split_tokens == 0 || args.rule.split_tokens % kTileTokens != 0 ||
      args.rule.max_splits == 0 || !IsFloatDType(args.kv_dtype)) {
    return cudaErrorInvalidValue;
  }
  return TensorCoresServe(args) ? AttendOnTensorCores(args, launch) : AttendPlain(args, launch);
}

cudaError_t AttentionWeights(const AttentionWeightsArgs& args, const Launch& launch) {
  if (!Serves(args.geometry) || args.num_rows == 0 || args.score_stride == 0) {
    return cudaErrorInvalidValue;
  }
  return LaunchKernel(
      launch, AttentionWeightsKernel,
      dim3(CeilDiv(args.score_stride, kThreads), args.geometry.num_kv_heads, args.num_rows),
      kThreads, 0, args);
}

}  // namespace tributary::gpu
