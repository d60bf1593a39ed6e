#include "coordinator/edge/proto_convert.h"

#include <algorithm>

#include "base/clock.h"
#include "base/status.h"
#include "base/version.h"
#include "fmt/format.h"
#include "proto/convert.h"
#include "proto/convert_policy.h"

namespace tributary {
namespace {

ModelGeometry GeometryFromProto(const v1::ModelGeometry& message) {
  return {{message.num_q_heads(), message.num_kv_heads(), message.head_dim()},
          message.num_layers(),
          message.vocab_size(),
          message.model_name()};
}

v1::ModelGeometry GeometryToProto(const ModelGeometry& geometry) {
  v1::ModelGeometry message;
  message.set_num_layers(geometry.num_layers);
  message.set_num_q_heads(geometry.attention.num_q_heads);
  message.set_num_kv_heads(geometry.attention.num_kv_heads);
  message.set_head_dim(geometry.attention.head_dim);
  message.set_vocab_size(geometry.vocab_size);
  message.set_model_name(geometry.model_name);
  return message;
}

TokenChunk TokensFromProto(const v1::WorkerEvent::SequenceTokens& message) {
  TokenChunk chunk{SequenceId(message.sequence_id()),
                   {message.tokens().begin(), message.tokens().end()},
                   {message.logprobs().begin(), message.logprobs().end()},
                   {}};
  for (const v1::TopLogprobs& top : message.top_logprobs()) {
    chunk.top.push_back({{top.tokens().begin(), top.tokens().end()}, {top.logprobs().begin(), top.logprobs().end()}});
  }
  return chunk;
}

RequestSummary::AttentionQuality AttentionFromProto(const v1::GenerateEvent::AttentionQuality& message) {
  RequestSummary::AttentionQuality attention{message.remote_read_share(), message.samples(),
                                             message.kept_mass_mean(),    message.kept_mass_min(),
                                             message.fallback_heads(),    {}};
  for (const auto& head : message.heads()) {
    attention.heads.push_back(
        {head.layer(), head.kv_head(), head.read_share(), head.kept_mass_mean(), head.kept_mass_min()});
  }
  return attention;
}

void FillAttention(const RequestSummary::AttentionQuality& attention, v1::GenerateEvent::AttentionQuality& message) {
  message.set_remote_read_share(attention.remote_read_share);
  message.set_samples(attention.samples);
  message.set_kept_mass_mean(attention.kept_mass_mean);
  message.set_kept_mass_min(attention.kept_mass_min);
  message.set_fallback_heads(attention.fallback_heads);
  for (const RequestSummary::HeadQuality& head : attention.heads) {
    auto& added = *message.add_heads();
    added.set_layer(head.layer);
    added.set_kv_head(head.kv_head);
    added.set_read_share(head.read_share);
    added.set_kept_mass_mean(head.kept_mass_mean);
    added.set_kept_mass_min(head.kept_mass_min);
  }
}

RequestSummary SummaryFromProto(const v1::GenerateEvent::Summary& message) {
  RequestSummary summary;
  summary.finish_reason = message.finish_reason();
  summary.prompt_tokens = message.prompt_tokens();
  summary.generated_tokens = message.generated_tokens();
  summary.prefill_s = message.prefill_s();
  summary.ttft_s = message.ttft_s();
  summary.decode_s = message.decode_s();
  summary.context_tokens = message.context_tokens();
  summary.resident_tokens = message.resident_tokens();
  summary.remote_tokens = message.remote_tokens();
  summary.attended_tokens_mean = message.attended_tokens_mean();
  summary.policy = message.policy();
  summary.bytes_sent = message.bytes_sent();
  summary.bytes_received = message.bytes_received();
  for (const auto& node : message.nodes()) {
    summary.nodes.push_back({node.node_id(), node.shards(), node.tokens(), node.kv_bytes()});
  }
  for (const auto& stage : message.stages()) {
    summary.stages.push_back({stage.stage(), stage.seconds()});
  }
  summary.remote_k_dtype = DTypeFromProto(message.remote_k_dtype()).value_or(DType::kUnset);
  summary.remote_v_dtype = DTypeFromProto(message.remote_v_dtype()).value_or(DType::kUnset);
  if (message.has_attention()) summary.attention = AttentionFromProto(message.attention());
  return summary;
}

absl::StatusOr<Cut> CutFromProto(v1::Placement::Cut cut) {
  switch (cut) {
    case v1::Placement::CUT_AUTO:
      return Cut::kAuto;
    case v1::Placement::CUT_TOKENS:
      return Cut::kTokens;
    case v1::Placement::CUT_HEADS:
      return Cut::kHeads;
    case v1::Placement::CUT_BOTH:
      return Cut::kBoth;
    default:
      return absl::InvalidArgumentError(
          fmt::format("cut {} is not known; use auto, tokens, heads or both", static_cast<int>(cut)));
  }
}

v1::Sampling SamplingToProto(const SamplingOptions& sampling) {
  v1::Sampling message;
  message.set_temperature(sampling.temperature);
  message.set_top_k(sampling.top_k);
  message.set_top_p(sampling.top_p);
  message.set_seed(sampling.seed);
  return message;
}

v1::Placement PlacementToProto(const PlacementOptions& placement) {
  v1::Placement message;
  message.set_window_tokens(placement.window_tokens);
  message.set_sink_tokens(placement.sink_tokens);
  message.set_has_sink_tokens(true);
  message.set_block_tokens(placement.block_tokens);
  message.set_kv_dtype(DTypeToProto(placement.kv_dtype));
  message.set_remote_k_dtype(DTypeToProto(placement.remote_k_dtype));
  message.set_remote_v_dtype(DTypeToProto(placement.remote_v_dtype));
  message.set_cut(static_cast<v1::Placement::Cut>(placement.cut));
  message.set_max_nodes(placement.max_nodes);
  message.set_all_resident(placement.all_resident);
  return message;
}

absl::Status StatusFromProto(const v1::WorkerEvent::SequenceEnded& message) {
  if (message.status_code() == 0) return absl::OkStatus();
  const bool known = message.status_code() <= static_cast<uint32_t>(absl::StatusCode::kUnauthenticated);
  const auto code = known ? static_cast<absl::StatusCode>(message.status_code()) : absl::StatusCode::kUnknown;
  return absl::Status(code, message.message());
}

}  // namespace

absl::StatusOr<NodeDescription> NodeFromProto(const v1::NodeInfo& message) {
  NodeDescription node;
  node.node_id = message.endpoint().node_id();
  node.incarnation = message.endpoint().incarnation();
  node.control_address = message.endpoint().control_address();
  switch (message.role()) {
    case v1::NODE_ROLE_GPU_WORKER:
      node.role = NodeRole::kGpuWorker;
      break;
    case v1::NODE_ROLE_CPU_ATTENTION:
      node.role = NodeRole::kCpuAttention;
      break;
    default:
      return absl::InvalidArgumentError(
          fmt::format("node '{}' states role {}; roles are GPU worker (1) and CPU attention (2)", node.node_id,
                      static_cast<int>(message.role())));
  }
  node.metrics_address = message.metrics_address();
  node.version = message.version();
  node.protocol_version = message.protocol_version();
  node.kv_capacity_bytes = message.kv_capacity_bytes();
  node.extent_bytes = message.extent_bytes();
  node.geometry = GeometryFromProto(message.geometry());
  node.max_context_tokens = message.max_context_tokens();
  node.max_batch = message.max_batch();
  node.max_prompt_tokens = message.max_prompt_tokens();
  node.max_token_stripes = message.max_token_stripes();
  return node;
}

absl::StatusOr<GenerateSpec> GenerateSpecFromProto(const v1::GenerateRequest& message) {
  GenerateSpec spec;
  spec.prompt_tokens.assign(message.prompt_tokens().begin(), message.prompt_tokens().end());
  spec.max_tokens = message.max_tokens();
  spec.sampling = {message.sampling().temperature(), message.sampling().top_k(), message.sampling().top_p(),
                   message.sampling().seed()};
  const v1::Placement& placement = message.placement();
  spec.placement.window_tokens = placement.window_tokens();
  spec.placement.sink_tokens = placement.sink_tokens();
  spec.placement.has_sink_tokens = placement.has_sink_tokens();
  spec.placement.block_tokens = placement.block_tokens();
  TRIBUTARY_ASSIGN_OR_RETURN(spec.placement.kv_dtype, DTypeFromProto(placement.kv_dtype()));
  TRIBUTARY_ASSIGN_OR_RETURN(spec.placement.remote_k_dtype, DTypeFromProto(placement.remote_k_dtype()));
  TRIBUTARY_ASSIGN_OR_RETURN(spec.placement.remote_v_dtype, DTypeFromProto(placement.remote_v_dtype()));
  TRIBUTARY_ASSIGN_OR_RETURN(spec.placement.cut, CutFromProto(placement.cut()));
  spec.placement.max_nodes = placement.max_nodes();
  spec.placement.all_resident = placement.all_resident();
  spec.stop_tokens.assign(message.stop_tokens().begin(), message.stop_tokens().end());
  spec.forced_tokens.assign(message.forced_tokens().begin(), message.forced_tokens().end());
  TRIBUTARY_ASSIGN_OR_RETURN(spec.policy, PolicyFromProto(message.attention_policy()));
  spec.report_attention_heads = message.report_attention_heads();
  spec.request_id = message.request_id();
  spec.ignore_eos = message.ignore_eos();
  spec.top_logprobs = message.top_logprobs();
  spec.keep = {message.keep().lease_ns(), message.keep().max_context_tokens()};
  spec.continue_request_id = message.continue_request_id();
  return spec;
}

absl::StatusOr<Event> WorkerEventFromProto(StreamId stream, v1::WorkerEvent& message) {
  switch (message.event_case()) {
    case v1::WorkerEvent::kHello: {
      TRIBUTARY_ASSIGN_OR_RETURN(NodeDescription node, NodeFromProto(message.hello()));
      return event::WorkerHello{stream, std::move(node)};
    }
    case v1::WorkerEvent::kHeartbeat:
      return event::WorkerHeartbeat{stream, message.heartbeat().resident_free_bytes(), message.heartbeat().sequences(),
                                    message.heartbeat().draining()};
    case v1::WorkerEvent::kPrefill:
      return event::WorkerPrefill{stream, SequenceId(message.prefill().sequence_id()), message.prefill().layers_done(),
                                  message.prefill().num_layers(), message.prefill().fraction()};
    case v1::WorkerEvent::kTokens:
      return event::WorkerTokens{stream, TokensFromProto(message.tokens())};
    case v1::WorkerEvent::kStepDone: {
      event::WorkerStepDone done{stream, StepId(message.step_done().step_id()), {}};
      for (const auto& tokens : message.step_done().tokens()) {
        done.tokens.push_back(TokensFromProto(tokens));
      }
      return done;
    }
    case v1::WorkerEvent::kEnded:
      return event::WorkerEnded{stream, SequenceId(message.ended().sequence_id()), StatusFromProto(message.ended()),
                                message.ended().failed_node_id(), SummaryFromProto(message.ended().summary())};
    case v1::WorkerEvent::kKept:
      return event::WorkerKept{stream, SequenceId(message.kept().sequence_id()),
                               SummaryFromProto(message.kept().summary())};
    case v1::WorkerEvent::EVENT_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("worker event of an unknown kind; run the same release on worker and coordinator");
}

event::Heartbeat HeartbeatFromProto(CallId call, const v1::HeartbeatRequest& message) {
  event::Heartbeat heartbeat{call, message.node_id(), message.incarnation(), message.kv_free_bytes(),
                             {},   message.draining()};
  for (const v1::ShardUsage& shard : message.shards()) {
    heartbeat.shards.push_back({ShardId(shard.shard_id()), SequenceId(shard.sequence_id()), shard.reserved_bytes()});
  }
  return heartbeat;
}

v1::GenerateEvent ToProto(const action::Accepted& accepted) {
  v1::GenerateEvent message;
  auto& event = *message.mutable_accepted();
  event.set_request_id(accepted.request_id);
  event.set_sequence_id(accepted.sequence_id.value);
  event.set_epoch(accepted.epoch.value);
  event.set_worker_id(accepted.worker_id);
  return message;
}

v1::GenerateEvent ToProto(const action::Prefill& prefill) {
  v1::GenerateEvent message;
  auto& event = *message.mutable_prefill();
  event.set_layers_done(prefill.layers_done);
  event.set_num_layers(prefill.num_layers);
  event.set_fraction(prefill.fraction);
  return message;
}

v1::GenerateEvent ToProto(const action::Tokens& tokens) {
  v1::GenerateEvent message;
  auto& event = *message.mutable_tokens();
  event.mutable_tokens()->Add(tokens.tokens.tokens.begin(), tokens.tokens.tokens.end());
  event.mutable_logprobs()->Add(tokens.tokens.logprobs.begin(), tokens.tokens.logprobs.end());
  for (const TokenChunk::Top& top : tokens.tokens.top) {
    v1::TopLogprobs& added = *event.add_top_logprobs();
    added.mutable_tokens()->Add(top.tokens.begin(), top.tokens.end());
    added.mutable_logprobs()->Add(top.logprobs.begin(), top.logprobs.end());
  }
  return message;
}

v1::GenerateEvent ToProto(const RequestSummary& summary) {
  v1::GenerateEvent message;
  auto& event = *message.mutable_summary();
  event.set_finish_reason(summary.finish_reason);
  event.set_prompt_tokens(summary.prompt_tokens);
  event.set_generated_tokens(summary.generated_tokens);
  event.set_queue_s(summary.queue_s);
  event.set_prefill_s(summary.prefill_s);
  event.set_ttft_s(summary.ttft_s);
  event.set_decode_s(summary.decode_s);
  event.set_context_tokens(summary.context_tokens);
  event.set_resident_tokens(summary.resident_tokens);
  event.set_remote_tokens(summary.remote_tokens);
  event.set_attended_tokens_mean(summary.attended_tokens_mean);
  event.set_policy(summary.policy);
  event.set_bytes_sent(summary.bytes_sent);
  event.set_bytes_received(summary.bytes_received);
  for (const RequestSummary::NodeShare& share : summary.nodes) {
    auto& node = *event.add_nodes();
    node.set_node_id(share.node_id);
    node.set_shards(share.shards);
    node.set_tokens(share.tokens);
    node.set_kv_bytes(share.kv_bytes);
  }
  for (const RequestSummary::StageTime& time : summary.stages) {
    auto& stage = *event.add_stages();
    stage.set_stage(time.stage);
    stage.set_seconds(time.seconds);
  }
  event.set_remote_k_dtype(DTypeToProto(summary.remote_k_dtype));
  event.set_remote_v_dtype(DTypeToProto(summary.remote_v_dtype));
  if (summary.kept) {
    auto& kept = *event.mutable_kept();
    kept.set_request_id(summary.kept->request_id);
    kept.set_lease_ns(summary.kept->lease_ns);
    kept.set_max_context_tokens(summary.kept->max_context_tokens);
    kept.set_growth_tokens(summary.kept->growth_tokens());
  }
  if (summary.attention.has_value()) FillAttention(*summary.attention, *event.mutable_attention());
  return message;
}

v1::WorkerCommand ToProto(const action::Welcome& welcome, int64_t heartbeat_interval_ns) {
  v1::WorkerCommand message;
  message.mutable_welcome()->set_membership_epoch(welcome.membership_epoch);
  message.mutable_welcome()->set_heartbeat_interval_ns(heartbeat_interval_ns);
  return message;
}

v1::WorkerCommand ToProto(const action::StartSequence& start) {
  v1::WorkerCommand message;
  auto& command = *message.mutable_start();
  const GenerateSpec& spec = start.spec;
  command.set_sequence_id(start.sequence_id.value);
  command.set_epoch(start.epoch.value);
  command.mutable_prompt_tokens()->Add(spec.prompt_tokens.begin(), spec.prompt_tokens.end());
  command.set_max_tokens(spec.max_tokens);
  *command.mutable_sampling() = SamplingToProto(spec.sampling);
  *command.mutable_placement() = PlacementToProto(spec.placement);
  command.mutable_stop_tokens()->Add(spec.stop_tokens.begin(), spec.stop_tokens.end());
  command.mutable_forced_tokens()->Add(spec.forced_tokens.begin(), spec.forced_tokens.end());
  *command.mutable_attention_policy() = PolicyToProto(CompleteRequest(spec.resolved_policy));
  command.set_report_attention_heads(spec.report_attention_heads);
  command.set_ignore_eos(spec.ignore_eos);
  command.set_top_logprobs(spec.top_logprobs);
  command.set_reserved_context_tokens(spec.keep.max_context_tokens);
  command.set_keep(spec.keep.asked());
  for (const ShardPlacement& shard : start.shards) *command.add_routes() = ShardPlacementToProto(shard);
  return message;
}

v1::WorkerCommand ToProto(const action::ContinueSequence& turn) {
  v1::WorkerCommand message;
  auto& command = *message.mutable_continue_sequence();
  const GenerateSpec& spec = turn.spec;
  command.set_sequence_id(turn.sequence_id.value);
  command.set_epoch(turn.epoch.value);
  command.mutable_prompt_tokens()->Add(spec.prompt_tokens.begin(), spec.prompt_tokens.end());
  command.set_max_tokens(spec.max_tokens);
  *command.mutable_sampling() = SamplingToProto(spec.sampling);
  command.mutable_stop_tokens()->Add(spec.stop_tokens.begin(), spec.stop_tokens.end());
  command.mutable_forced_tokens()->Add(spec.forced_tokens.begin(), spec.forced_tokens.end());
  command.set_ignore_eos(spec.ignore_eos);
  command.set_keep(spec.keep.asked());
  command.set_top_logprobs(spec.top_logprobs);
  return message;
}

v1::WorkerCommand ToProto(const action::StepCommand& step) {
  v1::WorkerCommand message;
  auto& command = *message.mutable_step();
  command.set_step_id(step.step_id.value);
  command.set_timeout_ns(step.timeout_ns);
  for (const SequenceId sequence : step.sequences) command.add_sequence_ids(sequence.value);
  return message;
}

v1::WorkerCommand ToProto(const action::StopSequence& stop) {
  v1::WorkerCommand message;
  message.mutable_stop()->set_sequence_id(stop.sequence_id.value);
  message.mutable_stop()->set_epoch(stop.epoch.value);
  return message;
}

v1::StatusResponse ToProto(const ClusterStatus& status, int64_t now_ns) {
  v1::StatusResponse message;
  message.set_version(std::string(VersionText()));
  message.set_membership_epoch(status.membership_epoch);
  message.set_requests_running(status.running);
  message.set_requests_waiting(status.waiting);
  message.set_requests_finished(status.finished);
  message.set_requests_failed(status.failed);
  if (status.geometry) *message.mutable_geometry() = GeometryToProto(*status.geometry);
  for (const MemberStatus& member : status.members) {
    const NodeDescription& node = member.member.node;
    v1::NodeStatus& added = *message.add_nodes();
    added.mutable_endpoint()->set_node_id(node.node_id);
    added.mutable_endpoint()->set_incarnation(node.incarnation);
    added.mutable_endpoint()->set_control_address(node.control_address);
    added.set_role(node.role == NodeRole::kGpuWorker ? v1::NODE_ROLE_GPU_WORKER : v1::NODE_ROLE_CPU_ATTENTION);
    added.set_state(std::string(MemberStateName(member.member.state)));
    added.set_capacity_bytes(node.kv_capacity_bytes);
    added.set_free_bytes(member.available_bytes);
    added.set_shards(member.shards);
    added.set_sequences(member.sequences);
    added.set_heartbeat_age_s(SecondsFromNs(now_ns - member.member.last_heard_ns));
    added.set_metrics_address(node.metrics_address);
  }
  for (const KeptStatus& kept : status.kept) {
    v1::KeptSequence& added = *message.add_kept_sequences();
    added.set_request_id(kept.request_id);
    added.set_sequence_id(kept.sequence_id.value);
    added.set_worker_id(kept.worker_id);
    added.set_lease_left_s(SecondsFromNs(std::max<int64_t>(0, kept.kept_until_ns - now_ns)));
    added.set_context_tokens(kept.context_tokens);
    added.set_max_context_tokens(kept.reserved_context_tokens);
    added.set_resident_bytes(kept.resident_bytes);
    added.set_shard_bytes(kept.shard_bytes);
  }
  return message;
}

}  // namespace tributary
