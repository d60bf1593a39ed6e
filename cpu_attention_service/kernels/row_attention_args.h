// Attention over plain rows of K and V (no tiles), until nothing stores rows any more. Plain data and
// functions only, as decode_attention_args.h says.
#pragma once

#include <cstdint>

#include "attention/kv_tile_layout.h"
#include "base/limits.h"

namespace tributary {

// Attention of the query heads that share one KV head over one contiguous run of its tokens.
struct RowAttentionArgs {
  const float* q = nullptr;  // [group_size][head_dim]
  const void* k = nullptr;   // [num_tokens][head_dim] of k_storage, aligned to its element
  const void* v = nullptr;   // [num_tokens][head_dim] of v_storage, aligned to its element
  KvStorage k_storage = KvStorage::kF32;
  KvStorage v_storage = KvStorage::kF32;
  uint32_t num_tokens = 0;  // 0 gives the empty partial
  uint32_t head_dim = 0;    // <= limits::kMaxHeadDim, a multiple of the kernel's head_dim_multiple
  uint32_t group_size = 0;  // 1 .. limits::kMaxGroupSize
  float softmax_scale = 0;
  float* out = nullptr;     // [group_size][head_dim], normalised
  float* lse_ln = nullptr;  // [group_size]
};

// Reads each K and V row once. Allocates nothing, never fails. NaN and Inf in KV reach the results
// of this call only. The result is a function of the arguments' values alone: the same bits on each
// call.
using RowAttentionFn = void (*)(const RowAttentionArgs& args);

void RowAttentionScalar(const RowAttentionArgs& args);
void RowAttentionAvx2(const RowAttentionArgs& args);
void RowAttentionAvx512(const RowAttentionArgs& args);

}  // namespace tributary
