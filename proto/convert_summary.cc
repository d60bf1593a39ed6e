#include "proto/convert_summary.h"

#include <algorithm>
#include <utility>

#include "proto/convert.h"

namespace tributary {
namespace {

void FillTop(const TopTokens& top, v1::TopLogprobs& message) {
  message.mutable_tokens()->Add(top.tokens.begin(), top.tokens.end());
  message.mutable_logprobs()->Add(top.logprobs.begin(), top.logprobs.end());
}

// WorkerEvent::SequenceTokens and GenerateEvent::TokenChunk.
template <typename Message>
void FillTokens(const SequenceTokens& tokens, Message& message) {
  message.mutable_tokens()->Add(tokens.tokens.begin(), tokens.tokens.end());
  message.mutable_logprobs()->Add(tokens.logprobs.begin(), tokens.logprobs.end());
  for (const TopTokens& top : tokens.top) FillTop(top, *message.add_top_logprobs());
}

template <typename T>
std::vector<T> Part(const std::vector<T>& all, size_t begin, size_t end) {
  const auto clipped = [&](size_t idx) { return all.begin() + static_cast<ptrdiff_t>(std::min(idx, all.size())); };
  return {clipped(begin), clipped(end)};
}

SequenceTokens Part(const SequenceTokens& all, size_t begin, size_t end) {
  return {all.sequence_id, Part(all.tokens, begin, end), Part(all.logprobs, begin, end), Part(all.top, begin, end)};
}

void FillAttention(const AttentionQualitySummary& attention, v1::GenerateEvent::AttentionQuality& message) {
  message.set_remote_read_share(attention.remote_read_share);
  message.set_samples(attention.num_samples);
  message.set_kept_mass_mean(attention.kept_mass_mean);
  message.set_kept_mass_min(attention.kept_mass_min);
  message.set_output_error_mean(attention.output_error_mean);
  message.set_output_error_p95(attention.output_error_p95);
  message.set_output_error_max(attention.output_error_max);
  message.set_fallback_heads(attention.fallback_heads);
  for (const HeadQuality& head : attention.heads) {
    v1::GenerateEvent::HeadQuality& added = *message.add_heads();
    added.set_layer(head.layer);
    added.set_kv_head(head.kv_head);
    added.set_read_share(head.read_share);
    added.set_kept_mass_mean(head.kept_mass_mean);
    added.set_kept_mass_min(head.kept_mass_min);
    added.set_output_error_mean(head.output_error_mean);
    added.set_output_error_p95(head.output_error_p95);
    added.set_output_error_max(head.output_error_max);
  }
}

AttentionQualitySummary AttentionFromProto(const v1::GenerateEvent::AttentionQuality& message) {
  AttentionQualitySummary attention;
  attention.remote_read_share = message.remote_read_share();
  attention.num_samples = message.samples();
  attention.kept_mass_mean = message.kept_mass_mean();
  attention.kept_mass_min = message.kept_mass_min();
  attention.output_error_mean = message.output_error_mean();
  attention.output_error_p95 = message.output_error_p95();
  attention.output_error_max = message.output_error_max();
  attention.fallback_heads = message.fallback_heads();
  for (const v1::GenerateEvent::HeadQuality& head : message.heads()) {
    attention.heads.push_back({head.layer(), head.kv_head(), head.read_share(), head.kept_mass_mean(),
                               head.kept_mass_min(), head.output_error_mean(), head.output_error_p95(),
                               head.output_error_max()});
  }
  return attention;
}

}  // namespace

v1::WorkerEvent::SequenceTokens SequenceTokensToProto(const SequenceTokens& tokens) {
  v1::WorkerEvent::SequenceTokens message;
  message.set_sequence_id(tokens.sequence_id.value);
  FillTokens(tokens, message);
  return message;
}

SequenceTokens SequenceTokensFromProto(const v1::WorkerEvent::SequenceTokens& message) {
  SequenceTokens tokens;
  tokens.sequence_id = SequenceId(message.sequence_id());
  tokens.tokens.assign(message.tokens().begin(), message.tokens().end());
  tokens.logprobs.assign(message.logprobs().begin(), message.logprobs().end());
  for (const v1::TopLogprobs& top : message.top_logprobs()) {
    tokens.top.push_back({{top.tokens().begin(), top.tokens().end()}, {top.logprobs().begin(), top.logprobs().end()}});
  }
  return tokens;
}

v1::GenerateEvent::Summary SummaryToProto(const SequenceSummary& summary) {
  v1::GenerateEvent::Summary message;
  message.set_finish_reason(summary.finish_reason);
  message.set_prompt_tokens(summary.prompt_tokens);
  message.set_generated_tokens(summary.generated_tokens);
  message.set_prefill_s(summary.prefill_s);
  message.set_decode_s(summary.decode_s);
  message.set_context_tokens(summary.context_tokens);
  message.set_resident_tokens(summary.resident_tokens);
  message.set_remote_tokens(summary.remote_tokens);
  message.set_attended_tokens_mean(summary.attended_tokens_mean);
  message.set_policy(summary.policy);
  message.set_bytes_sent(summary.bytes_sent);
  message.set_bytes_received(summary.bytes_received);
  for (const NodeShare& share : summary.nodes) {
    v1::GenerateEvent::NodeShare& node = *message.add_nodes();
    node.set_node_id(share.node_id);
    node.set_shards(share.shards);
    node.set_tokens(share.tokens);
    node.set_kv_bytes(share.kv_bytes);
  }
  for (const StageTime& time : summary.stages) {
    v1::GenerateEvent::StageTime& stage = *message.add_stages();
    stage.set_stage(time.stage);
    stage.set_seconds(time.seconds);
  }
  message.set_remote_k_dtype(DTypeToProto(summary.remote_k_dtype));
  message.set_remote_v_dtype(DTypeToProto(summary.remote_v_dtype));
  if (summary.attention.has_value()) FillAttention(*summary.attention, *message.mutable_attention());
  return message;
}

SequenceSummary SequenceSummaryFromProto(const v1::GenerateEvent::Summary& message) {
  SequenceSummary summary;
  summary.finish_reason = message.finish_reason();
  summary.prompt_tokens = message.prompt_tokens();
  summary.generated_tokens = message.generated_tokens();
  summary.prefill_s = message.prefill_s();
  summary.decode_s = message.decode_s();
  summary.context_tokens = message.context_tokens();
  summary.resident_tokens = message.resident_tokens();
  summary.remote_tokens = message.remote_tokens();
  summary.attended_tokens_mean = message.attended_tokens_mean();
  summary.policy = message.policy();
  if (message.has_attention()) summary.attention = AttentionFromProto(message.attention());
  summary.bytes_sent = message.bytes_sent();
  summary.bytes_received = message.bytes_received();
  for (const v1::GenerateEvent::NodeShare& node : message.nodes()) {
    summary.nodes.push_back({node.node_id(), node.shards(), node.tokens(), node.kv_bytes()});
  }
  for (const v1::GenerateEvent::StageTime& stage : message.stages()) {
    summary.stages.push_back({stage.stage(), stage.seconds()});
  }
  summary.remote_k_dtype = DTypeFromProto(message.remote_k_dtype()).value_or(DType::kUnset);
  summary.remote_v_dtype = DTypeFromProto(message.remote_v_dtype()).value_or(DType::kUnset);
  return summary;
}

v1::GenerateEvent::Summary SummaryToProto(const RequestSummary& summary) {
  v1::GenerateEvent::Summary message = SummaryToProto(summary.sequence);
  message.set_queue_s(summary.queue_s);
  message.set_ttft_s(summary.ttft_s);
  if (!summary.kept.has_value()) return message;
  v1::GenerateEvent::Kept& kept = *message.mutable_kept();
  kept.set_request_id(summary.kept->request_id);
  kept.set_lease_ns(summary.kept->lease_ns);
  kept.set_max_context_tokens(summary.kept->max_context_tokens);
  kept.set_growth_tokens(summary.kept->growth_tokens());
  return message;
}

v1::GenerateEvent GenerateEventToProto(const RequestAccepted& accepted) {
  v1::GenerateEvent message;
  v1::GenerateEvent::Accepted& event = *message.mutable_accepted();
  event.set_request_id(accepted.request_id);
  event.set_sequence_id(accepted.sequence_id.value);
  event.set_epoch(accepted.epoch.value);
  event.set_worker_id(accepted.worker_id);
  return message;
}

v1::GenerateEvent GenerateEventToProto(const PrefillProgress& progress) {
  v1::GenerateEvent message;
  v1::GenerateEvent::PrefillProgress& event = *message.mutable_prefill();
  event.set_layers_done(progress.layers_done);
  event.set_num_layers(progress.num_layers);
  event.set_fraction(progress.fraction);
  return message;
}

std::vector<v1::GenerateEvent> TokenEventsToProto(const SequenceTokens& tokens, size_t max_bytes) {
  std::vector<v1::GenerateEvent> events(1);
  FillTokens(tokens, *events[0].mutable_tokens());
  if (events[0].ByteSizeLong() <= max_bytes || tokens.tokens.size() <= 1) return events;
  events.clear();
  const size_t half = tokens.tokens.size() / 2;
  for (const auto& [begin, end] : {std::pair{size_t{0}, half}, std::pair{half, tokens.tokens.size()}}) {
    for (v1::GenerateEvent& event : TokenEventsToProto(Part(tokens, begin, end), max_bytes)) {
      events.push_back(std::move(event));
    }
  }
  return events;
}

v1::GenerateEvent GenerateEventToProto(const RequestStalled& stalled) {
  v1::GenerateEvent message;
  message.mutable_stalled()->set_node_id(stalled.node_id);
  using Stalled = v1::GenerateEvent::Stalled;
  message.mutable_stalled()->set_reason(stalled.reason == RequestStalled::Reason::kSilent ? Stalled::REASON_SILENT
                                                                                          : Stalled::REASON_REBUILDING);
  return message;
}

v1::GenerateEvent GenerateEventToProto(const RequestSummary& summary) {
  v1::GenerateEvent message;
  *message.mutable_summary() = SummaryToProto(summary);
  return message;
}

}  // namespace tributary
