#include "proto/convert_request.h"

#include "base/status.h"
#include "fmt/format.h"
#include "proto/convert.h"
#include "proto/convert_policy.h"

namespace tributary {
namespace {

static_assert(static_cast<int>(Cut::kAuto) == v1::Placement::CUT_AUTO);
static_assert(static_cast<int>(Cut::kTokens) == v1::Placement::CUT_TOKENS);
static_assert(static_cast<int>(Cut::kHeads) == v1::Placement::CUT_HEADS);
static_assert(static_cast<int>(Cut::kBoth) == v1::Placement::CUT_BOTH);

absl::StatusOr<Cut> CutFromProto(v1::Placement::Cut cut) {
  if (v1::Placement::Cut_IsValid(cut)) return static_cast<Cut>(cut);
  return absl::InvalidArgumentError(
      fmt::format("cut {} is not known; use auto, tokens, heads or both", static_cast<int>(cut)));
}

v1::Placement PlacementToProto(const PlacementOptions& placement) {
  v1::Placement message;
  message.set_window_tokens(placement.window_tokens);
  message.set_sink_tokens(placement.sink_tokens);
  message.set_has_sink_tokens(placement.has_sink_tokens);
  message.set_block_tokens(placement.block_tokens);
  message.set_kv_dtype(DTypeToProto(placement.kv_dtype));
  message.set_remote_k_dtype(DTypeToProto(placement.remote_k_dtype));
  message.set_remote_v_dtype(DTypeToProto(placement.remote_v_dtype));
  message.set_cut(static_cast<v1::Placement::Cut>(placement.cut));
  message.set_max_nodes(placement.max_nodes);
  message.set_all_resident(placement.all_resident);
  return message;
}

absl::StatusOr<PlacementOptions> PlacementFromProto(const v1::Placement& message) {
  PlacementOptions placement;
  placement.window_tokens = message.window_tokens();
  placement.sink_tokens = message.sink_tokens();
  placement.has_sink_tokens = message.has_sink_tokens();
  placement.block_tokens = message.block_tokens();
  TRIBUTARY_ASSIGN_OR_RETURN(placement.kv_dtype, DTypeFromProto(message.kv_dtype()));
  TRIBUTARY_ASSIGN_OR_RETURN(placement.remote_k_dtype, DTypeFromProto(message.remote_k_dtype()));
  TRIBUTARY_ASSIGN_OR_RETURN(placement.remote_v_dtype, DTypeFromProto(message.remote_v_dtype()));
  TRIBUTARY_ASSIGN_OR_RETURN(placement.cut, CutFromProto(message.cut()));
  placement.max_nodes = message.max_nodes();
  placement.all_resident = message.all_resident();
  return placement;
}

}  // namespace

v1::Sampling SamplingToProto(const SamplingParams& sampling) {
  v1::Sampling message;
  message.set_temperature(sampling.temperature);
  message.set_top_k(sampling.top_k);
  message.set_top_p(sampling.top_p);
  message.set_seed(sampling.seed);
  message.set_min_p(sampling.min_p);
  message.set_presence_penalty(sampling.presence_penalty);
  message.set_frequency_penalty(sampling.frequency_penalty);
  message.set_repetition_penalty(sampling.repetition_penalty);
  for (const LogitBias& bias : sampling.logit_bias) {
    v1::LogitBias& entry = *message.add_logit_bias();
    entry.set_token(bias.token);
    entry.set_bias(bias.bias);
  }
  return message;
}

SamplingParams SamplingFromProto(const v1::Sampling& message) {
  SamplingParams sampling{.temperature = message.temperature(),
                          .top_k = message.top_k(),
                          .top_p = message.top_p(),
                          .seed = message.seed(),
                          .min_p = message.min_p(),
                          .presence_penalty = message.presence_penalty(),
                          .frequency_penalty = message.frequency_penalty(),
                          .repetition_penalty = message.repetition_penalty()};
  for (const v1::LogitBias& entry : message.logit_bias()) sampling.logit_bias.push_back({entry.token(), entry.bias()});
  return sampling;
}

v1::GenerateRequest GenerateRequestToProto(const GenerateSpec& spec) {
  v1::GenerateRequest message;
  message.mutable_prompt_tokens()->Add(spec.prompt_tokens.begin(), spec.prompt_tokens.end());
  message.set_max_tokens(spec.max_tokens);
  *message.mutable_sampling() = SamplingToProto(spec.sampling);
  if (spec.placement != PlacementOptions{}) *message.mutable_placement() = PlacementToProto(spec.placement);
  message.mutable_stop_tokens()->Add(spec.stop_tokens.begin(), spec.stop_tokens.end());
  message.mutable_forced_tokens()->Add(spec.forced_tokens.begin(), spec.forced_tokens.end());
  message.set_request_id(spec.request_id);
  message.set_ignore_eos(spec.ignore_eos);
  if (spec.policy != PolicyRequest{}) *message.mutable_attention_policy() = PolicyToProto(spec.policy);
  if (spec.lease.lease_ns != 0 || spec.lease.max_context_tokens != 0) {
    message.mutable_keep()->set_lease_ns(spec.lease.lease_ns);
    message.mutable_keep()->set_max_context_tokens(spec.lease.max_context_tokens);
  }
  message.set_continue_request_id(spec.continue_request_id);
  message.set_top_logprobs(spec.top_logprobs);
  message.set_report_attention_heads(spec.report_attention_heads);
  message.set_max_stall_ns(spec.max_stall_ns);
  return message;
}

absl::StatusOr<GenerateSpec> GenerateSpecFromProto(const v1::GenerateRequest& message) {
  GenerateSpec spec;
  spec.prompt_tokens.assign(message.prompt_tokens().begin(), message.prompt_tokens().end());
  spec.max_tokens = message.max_tokens();
  spec.sampling = SamplingFromProto(message.sampling());
  TRIBUTARY_ASSIGN_OR_RETURN(spec.placement, PlacementFromProto(message.placement()));
  spec.stop_tokens.assign(message.stop_tokens().begin(), message.stop_tokens().end());
  spec.forced_tokens.assign(message.forced_tokens().begin(), message.forced_tokens().end());
  TRIBUTARY_ASSIGN_OR_RETURN(spec.policy, PolicyFromProto(message.attention_policy()));
  spec.report_attention_heads = message.report_attention_heads();
  spec.max_stall_ns = message.max_stall_ns();
  spec.request_id = message.request_id();
  spec.ignore_eos = message.ignore_eos();
  spec.top_logprobs = message.top_logprobs();
  spec.lease = {message.keep().lease_ns(), message.keep().max_context_tokens()};
  spec.continue_request_id = message.continue_request_id();
  return spec;
}

}  // namespace tributary
