#include "gpu_worker/engine/sequence_summary.h"

#include <algorithm>
#include <set>
#include <string>

namespace tributary {
namespace {

bool Holds(const BoundShard& shard, NodeIdx node) {
  return std::any_of(shard.holders.begin(), shard.holders.end(),
                     [&](const ShardHolder& holder) { return holder.node == node; });
}

NodeShare ShareOf(NodeIdx node, const Sequence& sequence, const std::string& node_id) {
  NodeShare share{.node_id = node_id};
  const TokenRange remote = sequence.cache.remote();
  std::set<uint32_t> stripes;
  for (const BoundShard& shard : sequence.shards) {
    if (!Holds(shard, node)) continue;
    const uint64_t tokens = shard.spec.stripe.CountIn(remote);
    ++share.shards;
    share.kv_bytes += StoredBytes(shard.spec, tokens);
    if (stripes.insert(shard.spec.stripe.stripe_idx).second) share.tokens += tokens;
  }
  return share;
}

// All that hold or held shards of it, in the order of its plan.
void AddNodes(const Sequence& sequence, const RemoteNodes& nodes, SequenceSummary* summary) {
  std::set<NodeIdx> seen;
  for (const BoundShard& shard : sequence.shards) {
    for (const ShardHolder& holder : shard.holders) {
      if (!seen.insert(holder.node).second) continue;
      summary->nodes.push_back(ShareOf(holder.node, sequence, nodes.node_id(holder.node)));
    }
  }
}

}  // namespace

SequenceSummary EmptySummary(const SequencePlan& plan) {
  return {.prompt_tokens = static_cast<uint32_t>(plan.prompt_tokens.size()), .policy = std::string(plan.policy.name())};
}

SequenceSummary MakeSummary(const Sequence& sequence, const RemoteNodes& nodes) {
  SequenceSummary summary;
  const SequencePlan& plan = sequence.plan;
  if (sequence.failure.ok()) summary.finish_reason = sequence.FinishReason();
  summary.prompt_tokens = static_cast<uint32_t>(plan.prompt_tokens.size());
  summary.generated_tokens = sequence.generated_tokens;
  if (sequence.first_token_ns != 0) {
    summary.prefill_s = SecondsFromNs(sequence.first_token_ns - sequence.started_ns);
    summary.decode_s = SecondsFromNs(sequence.last_token_ns - sequence.first_token_ns);
  }
  summary.context_tokens = sequence.context_tokens();
  const TokenRange remote = sequence.cache.remote();
  // Where every layer sees a window only, what left it is nowhere.
  summary.remote_tokens = sequence.shards.empty() ? 0 : remote.size();
  summary.resident_tokens = summary.context_tokens - remote.size();
  const auto num_steps = static_cast<double>(sequence.num_steps);
  summary.attended_tokens_mean = sequence.num_steps == 0
                                     ? static_cast<double>(summary.context_tokens - summary.generated_tokens)
                                     : sequence.attended_tokens_sum / num_steps;
  summary.policy = plan.policy.name();
  if (sequence.quality != nullptr) {
    summary.attention = sequence.quality->Summary();
    if (!plan.report_attention_heads) summary.attention->heads.clear();
  }
  summary.bytes_sent = sequence.bytes_sent;
  summary.bytes_received = sequence.bytes_received;
  for (size_t i = 0; i < kNumStages && sequence.num_steps != 0; ++i) {
    summary.stages.push_back({kStageNames[i], SecondsFromNs(sequence.stage_sums_ns[i]) / num_steps});
  }
  if (!sequence.shards.empty()) {
    summary.remote_k_dtype = sequence.shards.front().spec.k_dtype;
    summary.remote_v_dtype = sequence.shards.front().spec.v_dtype;
  }
  AddNodes(sequence, nodes, &summary);
  return summary;
}

}  // namespace tributary
