#include "proto/convert_worker.h"

#include <utility>

#include "base/status.h"
#include "fmt/format.h"
#include "proto/convert.h"
#include "proto/convert_node.h"
#include "proto/convert_policy.h"
#include "proto/convert_request.h"
#include "proto/convert_summary.h"

namespace tributary {
namespace {

v1::WorkerCommand::Turn TurnToProto(const TurnPlan& turn) {
  v1::WorkerCommand::Turn message;
  message.mutable_prompt_tokens()->Add(turn.prompt_tokens.begin(), turn.prompt_tokens.end());
  message.set_max_tokens(turn.max_tokens);
  *message.mutable_sampling() = SamplingToProto(turn.sampling);
  message.mutable_stop_tokens()->Add(turn.stop_tokens.begin(), turn.stop_tokens.end());
  message.mutable_forced_tokens()->Add(turn.forced_tokens.begin(), turn.forced_tokens.end());
  message.set_ignore_eos(turn.ignore_eos);
  message.set_top_logprobs(turn.top_logprobs);
  message.set_keep(turn.keep);
  message.set_max_stall_ns(turn.max_stall_ns);
  return message;
}

TurnPlan TurnFromProto(const v1::WorkerCommand::Turn& message) {
  TurnPlan turn;
  turn.prompt_tokens.assign(message.prompt_tokens().begin(), message.prompt_tokens().end());
  turn.max_tokens = message.max_tokens();
  turn.sampling = SamplingFromProto(message.sampling());
  turn.stop_tokens.assign(message.stop_tokens().begin(), message.stop_tokens().end());
  turn.forced_tokens.assign(message.forced_tokens().begin(), message.forced_tokens().end());
  turn.ignore_eos = message.ignore_eos();
  turn.top_logprobs = message.top_logprobs();
  turn.keep = message.keep();
  turn.max_stall_ns = message.max_stall_ns();
  return turn;
}

absl::Status EndStatusFromProto(const v1::WorkerEvent::SequenceEnded& message) {
  if (message.status_code() == 0) return absl::OkStatus();
  const bool known = message.status_code() <= static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);
  const auto code = known ? static_cast<absl::StatusCode>(message.status_code()) : absl::StatusCode::kUnknown;
  return absl::Status(code, message.message());
}

struct EventFiller {
  v1::WorkerEvent& message;

  void operator()(const NodeDescription& node) { *message.mutable_hello() = NodeToProto(node); }
  void operator()(const WorkerLoad& load) {
    message.mutable_heartbeat()->set_resident_free_bytes(load.resident_free_bytes);
    message.mutable_heartbeat()->set_sequences(load.sequences);
    message.mutable_heartbeat()->set_draining(load.draining);
  }
  void operator()(const PrefillProgress& progress) {
    message.mutable_prefill()->set_sequence_id(progress.sequence_id.value);
    message.mutable_prefill()->set_layers_done(progress.layers_done);
    message.mutable_prefill()->set_num_layers(progress.num_layers);
    message.mutable_prefill()->set_fraction(progress.fraction);
  }
  void operator()(const SequenceTokens& tokens) { *message.mutable_tokens() = SequenceTokensToProto(tokens); }
  void operator()(const StepDone& done) { message = StepDoneToProto(done.step_id, done.tokens, done.step_s); }
  void operator()(const SequenceEnded& ended) {
    message.mutable_ended()->set_sequence_id(ended.sequence_id.value);
    message.mutable_ended()->set_status_code(static_cast<uint32_t>(ended.status.code()));
    message.mutable_ended()->set_message(std::string(ended.status.message()));
    message.mutable_ended()->set_failed_node_id(ended.failed_node_id);
    *message.mutable_ended()->mutable_summary() = SummaryToProto(ended.summary);
  }
  void operator()(const SequenceStalled& stalled) {
    message.mutable_stalled()->set_sequence_id(stalled.sequence_id.value);
    message.mutable_stalled()->set_node_id(stalled.node_id);
  }
  void operator()(const SequenceResumed& resumed) {
    message.mutable_resumed()->set_sequence_id(resumed.sequence_id.value);
  }
  void operator()(const SequenceKept& kept) {
    message.mutable_kept()->set_sequence_id(kept.sequence_id.value);
    *message.mutable_kept()->mutable_summary() = SummaryToProto(kept.summary);
  }
};

}  // namespace

v1::WorkerCommand WorkerCommandToProto(const SequencePlan& plan) {
  v1::WorkerCommand message;
  v1::WorkerCommand::StartSequence& start = *message.mutable_start();
  start.set_sequence_id(plan.sequence_id.value);
  start.set_epoch(plan.epoch.value);
  *start.mutable_turn() = TurnToProto(plan);
  start.mutable_layout()->set_sink_tokens(plan.layout.sink_tokens);
  start.mutable_layout()->set_window_tokens(plan.layout.window_tokens);
  start.mutable_layout()->set_block_tokens(plan.layout.block_tokens);
  start.mutable_layout()->set_all_resident(plan.layout.all_resident);
  start.set_kv_dtype(DTypeToProto(plan.kv_dtype));
  *start.mutable_attention_policy() = PolicyToProto(CompleteRequest(plan.policy));
  start.set_report_attention_heads(plan.report_attention_heads);
  for (const ShardPlacement& shard : plan.shards) *start.add_shards() = ShardPlacementToProto(shard);
  start.set_reserved_context_tokens(plan.reserved_context_tokens);
  for (const PastTurn& turn : plan.past_turns) {
    v1::WorkerCommand::PastTurn& past = *start.add_past_turns();
    past.mutable_prompt_tokens()->Add(turn.prompt_tokens.begin(), turn.prompt_tokens.end());
    past.mutable_answer_tokens()->Add(turn.answer_tokens.begin(), turn.answer_tokens.end());
  }
  start.mutable_answer_tokens()->Add(plan.answer_tokens.begin(), plan.answer_tokens.end());
  return message;
}

v1::WorkerCommand WorkerCommandToProto(const ContinuePlan& plan) {
  v1::WorkerCommand message;
  message.mutable_continue_sequence()->set_sequence_id(plan.sequence_id.value);
  message.mutable_continue_sequence()->set_epoch(plan.epoch.value);
  *message.mutable_continue_sequence()->mutable_turn() = TurnToProto(plan.turn);
  return message;
}

v1::WorkerCommand WorkerCommandToProto(const StepCommand& step) {
  v1::WorkerCommand message;
  message.mutable_step()->set_step_id(step.step_id.value);
  message.mutable_step()->set_timeout_ns(step.timeout_ns);
  for (const SequenceId sequence : step.sequence_ids) message.mutable_step()->add_sequence_ids(sequence.value);
  return message;
}

v1::WorkerCommand WorkerCommandToProto(const StopCommand& stop) {
  v1::WorkerCommand message;
  message.mutable_stop()->set_sequence_id(stop.sequence_id.value);
  message.mutable_stop()->set_epoch(stop.epoch.value);
  return message;
}

absl::StatusOr<SequencePlan> SequencePlanFromProto(const v1::WorkerCommand::StartSequence& message) {
  SequencePlan plan;
  static_cast<TurnPlan&>(plan) = TurnFromProto(message.turn());
  plan.sequence_id = SequenceId(message.sequence_id());
  plan.epoch = Epoch(message.epoch());
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
  for (const v1::ShardRoute& shard : message.shards()) {
    TRIBUTARY_ASSIGN_OR_RETURN(plan.shards.emplace_back(), ShardPlacementFromProto(shard));
  }
  plan.reserved_context_tokens = message.reserved_context_tokens();
  for (const v1::WorkerCommand::PastTurn& turn : message.past_turns()) {
    plan.past_turns.push_back({{turn.prompt_tokens().begin(), turn.prompt_tokens().end()},
                               {turn.answer_tokens().begin(), turn.answer_tokens().end()}});
  }
  plan.answer_tokens.assign(message.answer_tokens().begin(), message.answer_tokens().end());
  return plan;
}

ContinuePlan ContinuePlanFromProto(const v1::WorkerCommand::ContinueSequence& message) {
  return {SequenceId(message.sequence_id()), Epoch(message.epoch()), TurnFromProto(message.turn())};
}

StepCommand StepFromProto(const v1::WorkerCommand::Step& message) {
  StepCommand step{StepId(message.step_id()), message.timeout_ns(), {}};
  for (const uint64_t id : message.sequence_ids()) step.sequence_ids.push_back(SequenceId(id));
  return step;
}

StopCommand StopFromProto(const v1::WorkerCommand::StopSequence& message) {
  return {SequenceId(message.sequence_id()), Epoch(message.epoch())};
}

v1::WorkerEvent WorkerEventToProto(const WorkerEvent& event) {
  v1::WorkerEvent message;
  std::visit(EventFiller{message}, event);
  return message;
}

v1::WorkerEvent StepDoneToProto(StepId step, std::span<const SequenceTokens> tokens, double step_s) {
  v1::WorkerEvent message;
  message.mutable_step_done()->set_step_id(step.value);
  message.mutable_step_done()->set_step_s(step_s);
  for (const SequenceTokens& sequence : tokens) {
    *message.mutable_step_done()->add_tokens() = SequenceTokensToProto(sequence);
  }
  return message;
}

absl::StatusOr<WorkerEvent> WorkerEventFromProto(const v1::WorkerEvent& message) {
  switch (message.event_case()) {
    case v1::WorkerEvent::kHello:
      return NodeFromProto(message.hello());
    case v1::WorkerEvent::kHeartbeat:
      return WorkerLoad{message.heartbeat().resident_free_bytes(), message.heartbeat().sequences(),
                        message.heartbeat().draining()};
    case v1::WorkerEvent::kPrefill:
      return PrefillProgress{SequenceId(message.prefill().sequence_id()), message.prefill().layers_done(),
                             message.prefill().num_layers(), message.prefill().fraction()};
    case v1::WorkerEvent::kTokens:
      return SequenceTokensFromProto(message.tokens());
    case v1::WorkerEvent::kStepDone: {
      StepDone done{StepId(message.step_done().step_id()), {}, message.step_done().step_s()};
      for (const auto& tokens : message.step_done().tokens()) done.tokens.push_back(SequenceTokensFromProto(tokens));
      return done;
    }
    case v1::WorkerEvent::kEnded:
      return SequenceEnded{SequenceId(message.ended().sequence_id()), EndStatusFromProto(message.ended()),
                           message.ended().failed_node_id(), SequenceSummaryFromProto(message.ended().summary())};
    case v1::WorkerEvent::kKept:
      return SequenceKept{SequenceId(message.kept().sequence_id()), SequenceSummaryFromProto(message.kept().summary())};
    case v1::WorkerEvent::kStalled:
      return SequenceStalled{SequenceId(message.stalled().sequence_id()), message.stalled().node_id()};
    case v1::WorkerEvent::kResumed:
      return SequenceResumed{SequenceId(message.resumed().sequence_id())};
    case v1::WorkerEvent::EVENT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("worker event of an unknown kind; run the same release on worker and coordinator");
}

}  // namespace tributary
