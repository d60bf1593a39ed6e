// Puts the splits of Attend() together, then folds remote partials in, in slot order, with the formula of
// attention/merge.h. A partial with lse_ln = -inf changes nothing, whatever its out holds.
#pragma once

#include <cstdint>

#include "gpu_worker/device/cuda/kernels/attend.h"

namespace tributary::gpu {

struct MergeArgs {
  const DecodeRowDesc* rows = nullptr;
  uint32_t num_rows = 0;
  KvGeometry geometry;
  SplitRule rule;  // as in Attend()
  AttendWorkspace workspace;

  // Remote partials, as Device::PartialSlots, in device memory. num_slots null: none.
  const uint32_t* num_slots = nullptr;  // [num_rows], at most max_slots each
  const float* slot_out = nullptr;      // [num_rows][max_slots][num_q_heads][head_dim]
  const float* slot_lse_ln = nullptr;   // [num_rows][max_slots][num_q_heads]
  uint32_t max_slots = 0;               // at most 64

  // Learnt sinks (FoldSink() of attention/merge.h), which the resident part takes in, or null.
  const float* sink_logits = nullptr;  // [num_q_heads]

  void* out = nullptr;              // [num_rows][num_q_heads][head_dim] of out_dtype
  DType out_dtype = DType::kUnset;  // f32, bf16, f16
  // The resident part alone, f32, or null; may be pinned host memory. Of all rows, or of those that want it.
  float* resident_out = nullptr;     // [num_rows][num_q_heads][head_dim]
  float* resident_lse_ln = nullptr;  // [num_rows][num_q_heads]
  bool resident_of_all_rows = true;
  float* merged_lse_ln = nullptr;  // [num_rows][num_q_heads] or null
};
cudaError_t MergePartials(const MergeArgs& args, const Launch& launch);

}  // namespace tributary::gpu
