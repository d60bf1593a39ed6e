// What the kernels of a decode step know about each row of the batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace tributary::gpu {

inline constexpr uint32_t kMaxSlotRanges = 3;  // sinks, and the ring in at most two pieces
inline constexpr uint32_t kMaxDecodeRows = 256;
inline constexpr uint32_t kFacetWordBytes = 16;

// Describes one row of a step, in device memory. `region` is slot 0 of layer 0, K, KV head 0 of the row's resident KV;
// the region's layout is [layer][K, V][kv_head][capacity_tokens][head_dim] of kv_dtype, 16-byte aligned. A row with a
// null region is padding: it stores no KV and attends over nothing; `token` and `pos` must be valid still.
struct alignas(16) DecodeRowDesc {
  std::byte* region = nullptr;
  uint64_t pos = 0;  // of `token`
  uint32_t capacity_tokens = 0;
  uint32_t append_slot = 0;
  uint32_t token = 0;
  DType kv_dtype = DType::kUnset;
  bool wants_resident_partial = false;  // MergeArgs::resident_out
  // Slots to attend over, in token order. Empty ranges are allowed.
  struct Range {
    uint32_t begin = 0;
    uint32_t end = 0;
  } attend[kMaxSlotRanges];
  // One layer's scores, log2 of exp(softmax_scale * q.k), [q_head][capacity_tokens] by slot, for a facet that wants
  // them; else null.
  float* scores = nullptr;
  // What the row's facet, if it has one, tells its policy's kernels (../policy/cuda_facet.h); nobody else reads it.
  std::byte* facet = nullptr;
  alignas(8) std::byte facet_words[kFacetWordBytes] = {};
  uint32_t facet_kind = 0;  // 0: no facet, or nothing to do for it in this row
  uint32_t step_tokens =
      0;  // the newest of those attended over are new, as the one in append_slot is; 0: see DecodeRow
};

struct KvGeometry {
  uint32_t num_q_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;  // a multiple of 4, at most 256
};

}  // namespace tributary::gpu
