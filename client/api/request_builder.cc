#include "client/api/request_builder.h"

#include <charconv>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "fmt/format.h"
#include "model/byte_text.h"
#include "proto/convert_request.h"

namespace tributary {
namespace {

absl::StatusOr<Cut> ParseCut(const std::string& name) {
  for (const Cut cut : {Cut::kAuto, Cut::kTokens, Cut::kHeads, Cut::kBoth}) {
    if (name == CutName(cut)) return cut;
  }
  return absl::InvalidArgumentError(fmt::format("--shard-cut {} is unknown; use auto, tokens, heads or both", name));
}

absl::StatusOr<LogitBias> ParseLogitBias(const std::string& text) {
  LogitBias bias;
  const char* const end = text.data() + text.size();
  const auto token = std::from_chars(text.data(), end, bias.token);
  if (token.ec == std::errc() && token.ptr != end && *token.ptr == '=') {
    const auto value = std::from_chars(token.ptr + 1, end, bias.bias);
    if (value.ec == std::errc() && value.ptr == end) return bias;
  }
  return absl::InvalidArgumentError(
      fmt::format("--logit-bias '{}' is not TOKEN=BIAS; write for example 198=-100", text));
}

absl::StatusOr<SamplingParams> SamplingOf(const RequestOptions& options) {
  SamplingParams sampling{.temperature = options.temperature,
                          .top_k = options.top_k,
                          .top_p = options.top_p,
                          .seed = options.seed,
                          .min_p = options.min_p,
                          .presence_penalty = options.presence_penalty,
                          .frequency_penalty = options.frequency_penalty,
                          .repetition_penalty = options.repetition_penalty};
  for (const std::string& text : options.logit_bias) {
    TRIBUTARY_ASSIGN_OR_RETURN(const LogitBias bias, ParseLogitBias(text));
    sampling.logit_bias.push_back(bias);
  }
  return sampling;
}

}  // namespace

absl::Status FillCommon(const RequestOptions& options, GenerateSpec& spec) {
  TRIBUTARY_ASSIGN_OR_RETURN(spec.sampling, SamplingOf(options));
  PlacementOptions& placement = spec.placement;
  placement.window_tokens = options.window_tokens;
  placement.sink_tokens = options.sink_tokens.value_or(0);
  placement.has_sink_tokens = options.sink_tokens.has_value();
  placement.block_tokens = options.block_tokens;
  if (!options.kv_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(placement.kv_dtype, ParseDType(options.kv_dtype));
  }
  if (!options.remote_k_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(placement.remote_k_dtype, ParseKvDType(options.remote_k_dtype));
  }
  if (!options.remote_v_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(placement.remote_v_dtype, ParseKvDType(options.remote_v_dtype));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(placement.cut, ParseCut(options.shard_cut));
  placement.max_nodes = options.max_nodes;
  placement.all_resident = options.all_resident;
  spec.policy = options.policy;
  spec.report_attention_heads = options.report_attention_heads;
  spec.ignore_eos = options.ignore_eos;
  spec.top_logprobs = options.top_logprobs;
  spec.request_id = options.request_id;
  spec.continue_request_id = options.continue_request_id;
  spec.max_stall_ns = static_cast<int64_t>(options.max_stall_s * static_cast<double>(kNsPerS));
  if (options.keep_s > 0) {
    spec.lease = {static_cast<int64_t>(options.keep_s * static_cast<double>(kNsPerS)), options.keep_context_tokens};
  }
  return absl::OkStatus();
}

absl::Status CheckByteVocab(uint32_t vocab_size, const char* instead) {
  if (vocab_size == kByteVocab) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("this model has a vocabulary of {} tokens, and text is understood only for the 256 bytes; {}",
                  vocab_size, instead));
}

absl::StatusOr<v1::GenerateRequest> BuildGenerateRequest(const RequestOptions& options,
                                                         std::vector<uint32_t> prompt_tokens) {
  if (prompt_tokens.empty() && options.continue_request_id.empty()) {
    return absl::InvalidArgumentError("the prompt is empty; it needs at least one token");
  }
  GenerateSpec spec;
  spec.prompt_tokens = std::move(prompt_tokens);
  spec.max_tokens = options.max_tokens;
  TRIBUTARY_RETURN_IF_ERROR(FillCommon(options, spec));
  return GenerateRequestToProto(spec);
}

absl::StatusOr<v1::GenerateRequest> BuildScoreRequest(const RequestOptions& options,
                                                      const std::vector<uint32_t>& tokens) {
  if (tokens.size() <= options.prefill_tokens) {
    return absl::InvalidArgumentError(fmt::format(
        "'{}' has {} tokens and --prefill-tokens takes {} of them; none is left to score",
        options.tokens_file.empty() ? options.text_file : options.tokens_file, tokens.size(), options.prefill_tokens));
  }
  GenerateSpec spec;
  const auto split = tokens.begin() + options.prefill_tokens;
  spec.prompt_tokens.assign(tokens.begin(), split);
  spec.forced_tokens.assign(split, tokens.end());
  spec.max_tokens = static_cast<uint32_t>(tokens.size() - options.prefill_tokens);
  TRIBUTARY_RETURN_IF_ERROR(FillCommon(options, spec));
  spec.ignore_eos = true;
  return GenerateRequestToProto(spec);
}

}  // namespace tributary
