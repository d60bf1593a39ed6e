#include "cpu_attention_service/policy/shard_policy.h"

namespace tributary {

FrameError ShardPolicy::CheckSpill(uint32_t num_tokens, std::span<const std::byte> section) const {
  return section.empty() ? FrameError::kOk : FrameError::kMalformed;
}

FrameError ShardPolicy::CheckQuery(const ReadRequest& request) const {
  return request.section.empty() ? FrameError::kOk : FrameError::kMalformed;
}

bool ReadsAll(const ReadRequest& request, const HeadRead& read) {
  return read.tokens == request.local && read.rows.empty() && read.pieces.pieces.empty() &&
         read.weighted.pieces.empty();
}

void ResetToDense(const ReadRequest& request, uint32_t num_kv_heads, ReadPlan* plan) {
  plan->answer.assign(num_kv_heads, HeadRead{.tokens = request.local});
  plan->sample.clear();
  plan->after = ReadPlan::After::kNothing;
  plan->max_over_group = false;
  plan->plans_heads = false;
  plan->scan_parts = 0;
  plan->has_selected = false;
}

}  // namespace tributary
