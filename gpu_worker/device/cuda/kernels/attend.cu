#include "gpu_worker/device/cuda/kernels/attend.h"

#include "gpu_worker/device/cuda/kernels/attend_plan.cuh"
#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

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
  if (!Serves(args.geometry) || args.num_rows == 0 || args.num_rows > kMaxDecodeRows || args.rule.split_tokens == 0 ||
      args.rule.split_tokens % kTileTokens != 0 || args.rule.max_splits == 0 || !IsFloatDType(args.kv_dtype)) {
    return cudaErrorInvalidValue;
  }
  return TensorCoresServe(args) && args.soft_cap == 0 ? AttendOnTensorCores(args, launch) : AttendPlain(args, launch);
}

}  // namespace tributary::gpu
