// Merging many partials of one query row, and the check that no token was forgotten.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "attention/partial.h"

namespace tributary {

// Folds the partials, in the given order, into `merged` (which may be one of them). The order
// decides the last bits, so callers fix it: resident first, then token stripes by index. Empty
// partials (lse_ln = -inf) change nothing, whatever their `out` holds; nothing but empties gives
// the empty partial. REQUIRES (checked): head_dim <= limits::kMaxHeadDim; all views hold the same
// number of heads, merged.lse_ln.size().
void MergePartials(std::span<const ConstAttentionPartialView> partials, uint32_t head_dim,
                   const AttentionPartialView& merged);

// What one route (a shard's answer) covers of one layer of one sequence.
struct RouteCoverage {
  uint32_t kv_head_begin = 0;  // of the model
  uint32_t kv_head_end = 0;
  uint64_t covered_tokens = 0;
};

// INTERNAL unless for every KV head the resident tokens and the tokens covered by the routes that
// hold the head add up to the context length: merging hides an absent or doubled shard, so this
// must pass before the merge. The text names the first such head, the expected and the found count.
// Allocates nothing when it passes.
absl::Status CheckCoverage(uint64_t context_tokens, uint64_t resident_tokens, uint32_t num_kv_heads,
                           std::span<const RouteCoverage> routes);

}  // namespace tributary
