#include "gpu_worker/engine/sequence_admission.h"

#include <utility>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<Sequence>> SequenceAdmission::Admit(SequencePlan plan, std::string* blamed) {
  TRIBUTARY_RETURN_IF_ERROR(device_->status());
  TRIBUTARY_RETURN_IF_ERROR(Validate(plan, model_));
  if (const size_t prompt = plan.first_prompt().size(); prompt > device_->limits().max_prefill_tokens) {
    return absl::InvalidArgumentError(
        fmt::format("sequence {}: the prompt has {} tokens, this worker prefills at most {}", plan.sequence_id.value,
                    prompt, device_->limits().max_prefill_tokens));
  }
  const uint64_t max_context_tokens = plan.max_context_tokens();
  const bool never_remote = plan.layout.RemoteEnd(max_context_tokens) == plan.layout.sink_tokens;
  const bool has_shards = !plan.shards.empty() || model_.num_shard_layers() == 0;
  if (!has_shards || plan.layout.all_resident || never_remote) {
    plan.layout.all_resident = true;
    plan.shards.clear();
  }
  auto sequence = std::make_unique<Sequence>();
  TRIBUTARY_RETURN_IF_ERROR(BindShards(plan, sequence.get(), blamed));
  sequence->cache = WindowCache(plan.layout, max_context_tokens);
  TRIBUTARY_RETURN_IF_ERROR(Reserve(plan, sequence.get()));
  sequence->cache.Prefilled(plan.first_prompt().size());
  if (plan.keep || plan.sampling.penalises_answer() || plan.sampling.penalises_repetition()) {
    sequence->history = HistoryOf(plan);
  }
  sequence->started_ns = sequence->progress_ns = clock_->NowNs();
  sequence->plan = std::move(plan);
  sequence->BeginReplay();
  return sequence;
}

TokenHistory SequenceAdmission::HistoryOf(const SequencePlan& plan) const {
  TokenHistory history(model_.vocab_size);
  for (const PastTurn& turn : plan.past_turns) {
    history.BeginTurn(turn.prompt_tokens, {}, 0);
    for (const uint32_t token : turn.answer_tokens) history.AddAnswer(token);
  }
  history.BeginTurn(plan.prompt_tokens, plan.sampling, plan.max_tokens);
  for (const uint32_t token : plan.answer_tokens) history.AddAnswer(token);
  return history;
}

absl::Status SequenceAdmission::BindShards(const SequencePlan& plan, Sequence* sequence, std::string* blamed) {
  for (const ShardPlacement& placement : plan.shards) {
    BoundShard& shard = sequence->shards.emplace_back();
    shard.spec = placement.spec;
    shard.exchange_dtype = plan.kv_dtype;
    for (const NodeEndpoint& holder : placement.holders) {
      const absl::StatusOr<NodeIdx> node = nodes_->Acquire(holder);
      if (!node.ok()) {
        *blamed = holder.node_id;
        return node.status();
      }
      shard.holders.push_back({.node = *node});
    }
  }
  return absl::OkStatus();
}

absl::Status SequenceAdmission::Reserve(const SequencePlan& plan, Sequence* sequence) {
  const bool is_sparse = plan.policy.is_sparse() && !sequence->shards.empty();
  TRIBUTARY_ASSIGN_OR_RETURN(sequence->resident,
                             device_->ReserveResident({.capacity_tokens = sequence->cache.capacity_tokens(),
                                                       .kv_dtype = plan.kv_dtype,
                                                       .policy = is_sparse ? &plan.policy : nullptr,
                                                       .max_context_tokens = plan.max_context_tokens()}));
  sequence->facet = device_->facet(sequence->resident);
  if (is_sparse) {
    sequence->quality = std::make_unique<AttentionQuality>(plan.policy, model_.shape, model_.num_shard_layers());
  }
  return absl::OkStatus();
}

}  // namespace tributary
