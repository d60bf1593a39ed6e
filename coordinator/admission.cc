#include "coordinator/admission.h"

#include <algorithm>
#include <cmath>

#include "attention/policy/policy_params.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

template <typename... Args>
absl::Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}

absl::Status CheckTokens(const char* what, const std::vector<uint32_t>& tokens, uint32_t vocab) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= vocab) {
      return Invalid(
          "{}[{}] is {}, beyond the model's vocabulary of {}; was it made with another "
          "tokenizer?",
          what, i, tokens[i], vocab);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLengths(const GenerateSpec& spec, const ServingLimits& limits) {
  const uint64_t prompt = spec.prompt_tokens.size();
  if (prompt == 0) return Invalid("the prompt is empty; give at least one token");
  if (spec.max_tokens == 0) return Invalid("max_tokens is 0; ask for at least 1");
  if (limits.max_prompt_tokens != 0 && prompt > limits.max_prompt_tokens) {
    return Invalid(
        "the prompt has {} tokens; the worker prefills at most {}: shorten it, or start "
        "the worker with a larger --max-prefill-tokens",
        prompt, limits.max_prompt_tokens);
  }
  uint64_t max_context = limits::kMaxContextTokens;
  if (limits.max_context_tokens != 0)
    max_context = std::min(max_context, limits.max_context_tokens);
  if (prompt + spec.max_tokens - 1 > max_context) {
    return Invalid(
        "a prompt of {} tokens and max_tokens {} need a context of {}; the model's is {}: "
        "shorten one of them",
        prompt, spec.max_tokens, prompt + spec.max_tokens - 1, max_context);
  }
  if (spec.forced_tokens.size() > spec.max_tokens) {
    return Invalid("{} forced_tokens for max_tokens {}; raise max_tokens to at least their number",
                   spec.forced_tokens.size(), spec.max_tokens);
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const SamplingOptions& sampling, uint32_t vocab) {
  if (!std::isfinite(sampling.temperature) || sampling.temperature < 0) {
    return Invalid("temperature is {}; use 0 (greedy) or a positive number", sampling.temperature);
  }
  if (!std::isfinite(sampling.top_p) || sampling.top_p < 0 || sampling.top_p > 1) {
    return Invalid("top_p is {}; use a number from 0 to 1 (0 and 1 turn it off)", sampling.top_p);
  }
  if (sampling.top_k > vocab) {
    return Invalid("top_k is {}, beyond the vocabulary of {}; use 0 to turn it off", sampling.top_k,
                   vocab);
  }
  return absl::OkStatus();
}

absl::Status CheckTopLogprobs(uint32_t top_logprobs, uint32_t vocab) {
  const uint32_t most = std::min(vocab, limits::kMaxTopLogprobs);
  if (top_logprobs <= most) return absl::OkStatus();
  return Invalid(
      "top_logprobs is {}; at most {} can be had with a vocabulary of {} (0 asks for none)",
      top_logprobs, most, vocab);
}

absl::Status CheckPlacement(const PlacementOptions& placement, const ModelGeometry& geometry) {
  if (!IsValidDType(placement.kv_dtype)) {
    return Invalid("kv_dtype {} is not known; use f32, bf16 or f16",
                   static_cast<int>(placement.kv_dtype));
  }
  for (const DType dtype : {placement.remote_k_dtype, placement.remote_v_dtype}) {
    if (IsKvDType(dtype)) continue;
    return Invalid(
        "remote_k_dtype {} or remote_v_dtype {} is not known; use f32, bf16, f16, int8, int4 or "
        "fp8-e4m3",
        static_cast<int>(placement.remote_k_dtype), static_cast<int>(placement.remote_v_dtype));
  }
  if (static_cast<int>(placement.cut) < 0 || static_cast<int>(placement.cut) > 3) {
    return Invalid("cut {} is not known; use auto, tokens, heads or both",
                   static_cast<int>(placement.cut));
  }
  if (placement.block_tokens == 0 || placement.block_tokens > limits::kMaxBlockTokens) {
    return Invalid("block_tokens is {}; allowed are 1 to {}", placement.block_tokens,
                   limits::kMaxBlockTokens);
  }
  if (placement.all_resident) return absl::OkStatus();
  if (placement.window_tokens < placement.block_tokens) {
    return Invalid(
        "window_tokens ({}) is smaller than block_tokens ({}); raise the window or use "
        "smaller blocks",
        placement.window_tokens, placement.block_tokens);
  }
  if (placement.window_tokens > limits::kMaxContextTokens ||
      placement.sink_tokens > limits::kMaxContextTokens) {
    return Invalid("window_tokens ({}) and sink_tokens ({}) must not exceed {}",
                   placement.window_tokens, placement.sink_tokens, limits::kMaxContextTokens);
  }
  if (placement.cut == Cut::kBoth && geometry.attention.num_kv_heads < 2) {
    return Invalid("cut 'both' needs at least 2 KV heads, the model has {}; use 'tokens'",
                   geometry.attention.num_kv_heads);
  }
  return absl::OkStatus();
}

}  // namespace

PlacementOptions ResolvePlacement(const PlacementOptions& requested,
                                  const PlacementOptions& defaults) {
  PlacementOptions resolved = requested;
  if (resolved.window_tokens == 0) resolved.window_tokens = defaults.window_tokens;
  if (resolved.sink_tokens == 0 && !resolved.has_sink_tokens) {
    resolved.sink_tokens = defaults.sink_tokens;
  }
  resolved.has_sink_tokens = true;
  if (resolved.block_tokens == 0) resolved.block_tokens = defaults.block_tokens;
  if (resolved.kv_dtype == DType::kUnset) resolved.kv_dtype = defaults.kv_dtype;
  // What the request says, else what the cluster says, else as on the worker.
  const auto resolve = [&](DType* dtype, DType fallback) {
    if (*dtype == DType::kUnset) *dtype = fallback;
    if (*dtype == DType::kUnset) *dtype = resolved.kv_dtype;
  };
  resolve(&resolved.remote_k_dtype, defaults.remote_k_dtype);
  resolve(&resolved.remote_v_dtype, defaults.remote_v_dtype);
  return resolved;
}

absl::StatusOr<PolicyParams> ResolveRequestPolicy(const GenerateSpec& spec,
                                                  const ServingLimits& limits) {
  TRIBUTARY_ASSIGN_OR_RETURN(
      PolicyParams policy,
      ResolvePolicy(spec.policy, {.block_tokens = spec.placement.block_tokens,
                                  .num_layers = limits.geometry.num_layers,
                                  .num_kv_heads = limits.geometry.attention.num_kv_heads}));
  TRIBUTARY_RETURN_IF_ERROR(CheckServed(policy.kind));
  return policy;
}

absl::Status CheckRequest(const GenerateSpec& spec, const ServingLimits& limits) {
  TRIBUTARY_RETURN_IF_ERROR(CheckLengths(spec, limits));
  const uint32_t vocab = limits.geometry.vocab_size;
  TRIBUTARY_RETURN_IF_ERROR(CheckTokens("prompt_tokens", spec.prompt_tokens, vocab));
  TRIBUTARY_RETURN_IF_ERROR(CheckTokens("forced_tokens", spec.forced_tokens, vocab));
  TRIBUTARY_RETURN_IF_ERROR(CheckTokens("stop_tokens", spec.stop_tokens, vocab));
  TRIBUTARY_RETURN_IF_ERROR(CheckSampling(spec.sampling, vocab));
  TRIBUTARY_RETURN_IF_ERROR(CheckTopLogprobs(spec.top_logprobs, vocab));
  TRIBUTARY_RETURN_IF_ERROR(CheckPlacement(spec.placement, limits.geometry));
  return ResolveRequestPolicy(spec, limits).status();
}

int64_t RetryDelayNs(double mean_duration_s, size_t num_waiting, size_t num_running) {
  const double rounds =
      static_cast<double>(num_waiting + 1) / static_cast<double>(std::max<size_t>(num_running, 1));
  const double delay_s = std::clamp(mean_duration_s * rounds, 0.25, 30.0);
  return static_cast<int64_t>(delay_s * static_cast<double>(kNsPerS));
}

}  // namespace tributary
