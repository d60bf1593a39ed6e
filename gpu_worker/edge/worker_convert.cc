#include "gpu_worker/edge/worker_convert.h"

#include "base/status.h"
#include "fmt/format.h"
#include "proto/convert.h"
#include "proto/convert_policy.h"

namespace tributary {
namespace {

void FillTokens(const SequenceTokens& tokens, v1::WorkerEvent::SequenceTokens* message) {
  message->set_sequence_id(tokens.sequence_id.value);
  message->mutable_tokens()->Add(tokens.tokens.begin(), tokens.tokens.end());
  message->mutable_logprobs()->Add(tokens.logprobs.begin(), tokens.logprobs.end());
  for (const TopTokens& top : tokens.top) {
    v1::TopLogprobs& added = *message->add_top_logprobs();
    added.mutable_tokens()->Add(top.tokens.begin(), top.tokens.end());
    added.mutable_logprobs()->Add(top.logprobs.begin(), top.logprobs.end());
  }
}

void FillAttention(const AttentionQualitySummary& attention, v1::GenerateEvent::AttentionQuality* message) {
  message->set_remote_read_share(attention.remote_read_share);
  message->set_samples(attention.num_samples);
  message->set_kept_mass_mean(attention.kept_mass_mean);
  message->set_kept_mass_min(attention.kept_mass_min);
  message->set_fallback_heads(attention.fallback_heads);
  for (const HeadQuality& head : attention.heads) {
    auto& added = *message->add_heads();
    added.set_layer(head.layer);
    added.set_kv_head(head.kv_head);
    added.set_read_share(head.read_share);
    added.set_kept_mass_mean(head.kept_mass_mean);
    added.set_kept_mass_min(head.kept_mass_min);
  }
}

void FillSummary(const SequenceSummary& summary, v1::GenerateEvent::Summary* message) {
  message->set_finish_reason(summary.finish_reason);
  message->set_prompt_tokens(summary.prompt_tokens);
  message->set_generated_tokens(summary.generated_tokens);
  message->set_prefill_s(summary.prefill_s);
  message->set_decode_s(summary.decode_s);
  message->set_context_tokens(summary.context_tokens);
  message->set_resident_tokens(summary.resident_tokens);
  message->set_remote_tokens(summary.remote_tokens);
  message->set_attended_tokens_mean(summary.attended_tokens_mean);
  message->set_policy(summary.policy);
  message->set_bytes_sent(summary.bytes_sent);
  message->set_bytes_received(summary.bytes_received);
  for (const NodeShare& share : summary.nodes) {
    auto& node = *message->add_nodes();
    node.set_node_id(share.node_id);
    node.set_shards(share.shards);
    node.set_tokens(share.tokens);
    node.set_kv_bytes(share.kv_bytes);
  }
  for (const StageTime& time : summary.stages) {
    auto& stage = *message->add_stages();
    stage.set_stage(time.stage);
    stage.set_seconds(time.seconds);
  }
  if (summary.attention.has_value()) {
    FillAttention(*summary.attention, message->mutable_attention());
  }
  message->set_remote_k_dtype(DTypeToProto(summary.remote_k_dtype));
  message->set_remote_v_dtype(DTypeToProto(summary.remote_v_dtype));
}

TurnPlan TurnFromProto(const v1::WorkerCommand::Turn& message, const std::vector<uint32_t>& eos_tokens) {
  TurnPlan turn;
  turn.prompt_tokens.assign(message.prompt_tokens().begin(), message.prompt_tokens().end());
  turn.max_tokens = message.max_tokens();
  turn.sampling = {message.sampling().temperature(), message.sampling().top_k(), message.sampling().top_p(),
                   message.sampling().seed()};
  turn.stop_tokens.assign(message.stop_tokens().begin(), message.stop_tokens().end());
  if (!message.ignore_eos()) {
    turn.stop_tokens.insert(turn.stop_tokens.end(), eos_tokens.begin(), eos_tokens.end());
  }
  turn.forced_tokens.assign(message.forced_tokens().begin(), message.forced_tokens().end());
  turn.top_logprobs = message.top_logprobs();
  turn.keep = message.keep();
  return turn;
}

}  // namespace

absl::StatusOr<SequencePlan> PlanFromProto(const v1::WorkerCommand::StartSequence& message,
                                           const std::vector<uint32_t>& eos_tokens) {
  SequencePlan plan;
  plan.sequence_id = SequenceId(message.sequence_id());
  plan.epoch = Epoch(message.epoch());
  static_cast<TurnPlan&>(plan) = TurnFromProto(message.turn(), eos_tokens);
  plan.reserved_context_tokens = message.reserved_context_tokens();
  const v1::WorkerCommand::WindowLayout& layout = message.layout();
  plan.layout = {layout.sink_tokens(), layout.window_tokens(), layout.block_tokens(), layout.all_resident()};
  TRIBUTARY_ASSIGN_OR_RETURN(plan.kv_dtype, DTypeFromProto(message.kv_dtype()));
  if (IsQuantisedDType(plan.kv_dtype)) {
    return absl::InvalidArgumentError(
        fmt::format("kv_dtype {}: the worker keeps KV in f32, bf16 or f16; use one of these",
                    std::string(DTypeName(plan.kv_dtype))));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(plan.policy, CompletePolicyFromProto(message.attention_policy(), {}));
  plan.report_attention_heads = message.report_attention_heads();
  for (const v1::ShardRoute& route : message.shards()) {
    TRIBUTARY_ASSIGN_OR_RETURN(ShardPlacement placement, ShardPlacementFromProto(route));
    plan.routes.push_back({std::move(placement.spec), std::move(placement.holders.front())});
  }
  return plan;
}

ContinuePlan ContinueFromProto(const v1::WorkerCommand::ContinueSequence& message,
                               const std::vector<uint32_t>& eos_tokens) {
  return {SequenceId(message.sequence_id()), Epoch(message.epoch()), TurnFromProto(message.turn(), eos_tokens)};
}

StepCommand StepFromProto(const v1::WorkerCommand::Step& message) {
  StepCommand step{StepId(message.step_id()), message.timeout_ns(), {}};
  for (const uint64_t id : message.sequence_ids()) step.sequence_ids.push_back(SequenceId(id));
  return step;
}

v1::WorkerEvent TokensToProto(const SequenceTokens& tokens) {
  v1::WorkerEvent message;
  FillTokens(tokens, message.mutable_tokens());
  return message;
}

v1::WorkerEvent StepDoneToProto(StepId step, std::span<const SequenceTokens> tokens, double step_s) {
  v1::WorkerEvent message;
  message.mutable_step_done()->set_step_id(step.value);
  message.mutable_step_done()->set_step_s(step_s);
  for (const SequenceTokens& sequence : tokens) {
    FillTokens(sequence, message.mutable_step_done()->add_tokens());
  }
  return message;
}

v1::WorkerEvent EndedToProto(SequenceId sequence, const absl::Status& status, const std::string& failed_node_id,
                             const SequenceSummary& summary) {
  v1::WorkerEvent message;
  auto& ended = *message.mutable_ended();
  ended.set_sequence_id(sequence.value);
  ended.set_status_code(static_cast<uint32_t>(status.code()));
  ended.set_message(std::string(status.message()));
  ended.set_failed_node_id(failed_node_id);
  FillSummary(summary, ended.mutable_summary());
  return message;
}

v1::WorkerEvent KeptToProto(SequenceId sequence, const SequenceSummary& summary) {
  v1::WorkerEvent message;
  message.mutable_kept()->set_sequence_id(sequence.value);
  FillSummary(summary, message.mutable_kept()->mutable_summary());
  return message;
}

}  // namespace tributary
