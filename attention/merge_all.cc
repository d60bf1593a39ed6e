#include "attention/merge_all.h"

#include <algorithm>
#include <array>

#include "attention/merge.h"
#include "base/check.h"
#include "base/limits.h"
#include "fmt/format.h"

namespace tributary {

void MergePartials(std::span<const ConstAttentionPartialView> partials, uint32_t head_dim,
                   const AttentionPartialView& merged) {
  const size_t num_q_heads = merged.lse_ln.size();
  TRIBUTARY_CHECK_LE(head_dim, limits::kMaxHeadDim);
  TRIBUTARY_CHECK_EQ(merged.out.size(), num_q_heads * head_dim);
  for (const ConstAttentionPartialView& partial : partials) {
    TRIBUTARY_CHECK_EQ(partial.lse_ln.size(), num_q_heads);
    TRIBUTARY_CHECK_EQ(partial.out.size(), num_q_heads * head_dim);
  }
  for (size_t head = 0; head < num_q_heads; ++head) {
    MergeState state;
    std::array<float, limits::kMaxHeadDim> folded{};  // so that `merged` may be one of the inputs
    for (const ConstAttentionPartialView& partial : partials) {
      const float lse_ln = partial.lse_ln[head];
      if (lse_ln == kEmptyLse) continue;
      const MergeWeights weights = state.Fold(lse_ln);
      const float* out = partial.out.data() + head * head_dim;
      for (uint32_t d = 0; d < head_dim; ++d) {
        folded[d] = folded[d] * weights.keep + out[d] * weights.add;
      }
    }
    const float normaliser = state.Normaliser();
    float* out = merged.out.data() + head * head_dim;
    for (uint32_t d = 0; d < head_dim; ++d) out[d] = folded[d] * normaliser;
    merged.lse_ln[head] = state.LseLn();
  }
}

absl::Status CheckCoverage(uint64_t context_tokens, uint64_t resident_tokens, uint32_t num_kv_heads,
                           std::span<const RouteCoverage> routes) {
  if (num_kv_heads == 0 || num_kv_heads > limits::kMaxHeads) {
    return absl::InternalError(
        fmt::format("coverage: num_kv_heads is {}; it must be in [1, {}]", num_kv_heads, limits::kMaxHeads));
  }
  std::array<uint64_t, limits::kMaxHeads> remote;
  std::fill_n(remote.begin(), num_kv_heads, 0);
  for (const RouteCoverage& route : routes) {
    if (route.kv_head_begin >= route.kv_head_end || route.kv_head_end > num_kv_heads ||
        route.covered_tokens > limits::kMaxContextTokens) {
      return absl::InternalError(fmt::format(
          "coverage: a route covers {} tokens of KV heads [{}, {}), but the model has "
          "{} KV heads and a context at most {} tokens",
          route.covered_tokens, route.kv_head_begin, route.kv_head_end, num_kv_heads, limits::kMaxContextTokens));
    }
    for (uint32_t head = route.kv_head_begin; head < route.kv_head_end; ++head) {
      remote[head] += route.covered_tokens;
    }
  }
  for (uint32_t head = 0; head < num_kv_heads; ++head) {
    const uint64_t found = resident_tokens + remote[head];
    if (found == context_tokens) continue;
    return absl::InternalError(
        fmt::format("coverage of KV head {}: expected {} tokens, found {} ({} resident and {} remote from {} "
                    "routes); the answer would be wrong, so the sequence ends",
                    head, context_tokens, found, resident_tokens, remote[head], routes.size()));
  }
  return absl::OkStatus();
}

}  // namespace tributary
