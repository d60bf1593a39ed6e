// The moving averages of attention weights (MAW, policy/hgca/maw.h) of the rows that have one, given what Attend() left
// of a layer: their scores, and in the workspace the maximum and the sum of each split. Changes nothing that
// MergePartials() reads.
#pragma once

#include <cstdint>

#include "gpu_worker/device/cuda/kernels/attend.h"
#include "gpu_worker/device/cuda/kernels/decode_rows.h"
#include "gpu_worker/device/cuda/kernels/launch.h"
#include "policy/hgca/maw_update.h"

namespace tributary::gpu {

// DecodeRowDesc::facet_words of a row with a MAW. Its `facet` is the MAW, f32 [layer][kv_head][capacity_tokens].
struct MawWords {
  MawParams params;
};
static_assert(sizeof(MawWords) <= kFacetWordBytes);

struct UpdateMawArgs {
  uint32_t facet_kind = 0;  // of the rows that have a MAW
  const DecodeRowDesc* rows = nullptr;
  uint32_t num_rows = 0;  // at most kMaxDecodeRows
  uint32_t layer = 0;
  KvGeometry geometry;
  SplitRule rule;  // as in Attend()
  AttendWorkspace workspace;
  const float* sink_logits = nullptr;  // [num_q_heads], in the denominators of the weights, or null
};
cudaError_t UpdateMaw(const UpdateMawArgs& args, const Launch& launch);

}  // namespace tributary::gpu
