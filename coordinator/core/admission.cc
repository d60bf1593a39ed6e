#include "coordinator/core/admission.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "base/clock.h"
#include "base/limits.h"
#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "policy/policy_params.h"
#include "policy/policy_registry.h"
#include "policy/quality_levels.h"

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

uint64_t MaxContextTokens(const ServingLimits& limits) {
  if (limits.max_context_tokens == 0) return limits::kMaxContextTokens;
  return std::min(limits::kMaxContextTokens, limits.max_context_tokens);
}

absl::Status CheckForced(const GenerateSpec& spec) {
  if (spec.forced_tokens.size() > spec.max_tokens) {
    return Invalid("{} forced_tokens for max_tokens {}; raise max_tokens to at least their number",
                   spec.forced_tokens.size(), spec.max_tokens);
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
  const uint64_t max_context = MaxContextTokens(limits);
  if (prompt + spec.max_tokens - 1 > max_context) {
    return Invalid(
        "a prompt of {} tokens and max_tokens {} need a context of {}; the model's is {}: "
        "shorten one of them",
        prompt, spec.max_tokens, prompt + spec.max_tokens - 1, max_context);
  }
  return CheckForced(spec);
}

absl::Status CheckLease(const KeepOptions& keep) {
  if (keep.lease_ns < 0 || keep.lease_ns > limits::kMaxLeaseNs) {
    return Invalid("keep.lease_ns is {}; allowed are 0 (not kept) to {} ({:.0f} s)", keep.lease_ns, limits::kMaxLeaseNs,
                   SecondsFromNs(limits::kMaxLeaseNs));
  }
  if (!keep.asked() && keep.max_context_tokens != 0) {
    return Invalid("keep.max_context_tokens is {} without a lease; state keep.lease_ns, too", keep.max_context_tokens);
  }
  return absl::OkStatus();
}

absl::Status CheckKeep(const GenerateSpec& spec, const ServingLimits& limits) {
  const KeepOptions& keep = spec.lease;
  TRIBUTARY_RETURN_IF_ERROR(CheckLease(keep));
  if (!keep.asked()) return absl::OkStatus();
  const uint64_t turn = spec.prompt_tokens.size() + spec.max_tokens;
  if (keep.max_context_tokens < turn) {
    return Invalid(
        "keep.max_context_tokens is {}, but this request alone has {} (a prompt of {} and "
        "max_tokens "
        "{}); state what prompts and answers of all turns may have together",
        keep.max_context_tokens, turn, spec.prompt_tokens.size(), spec.max_tokens);
  }
  if (const uint64_t max = MaxContextTokens(limits); keep.max_context_tokens - 1 > max) {
    return Invalid(
        "keep.max_context_tokens is {}; the model's context allows {} (its {} and the last token "
        "of "
        "an answer)",
        keep.max_context_tokens, max + 1, max);
  }
  return absl::OkStatus();
}

absl::Status CheckSampling(const SamplingParams& sampling, uint32_t vocab) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(sampling));
  if (sampling.top_k > vocab) {
    return Invalid("top_k is {}, beyond the vocabulary of {}; use 0 to turn it off", sampling.top_k, vocab);
  }
  for (const LogitBias& bias : sampling.logit_bias) {
    if (bias.token < vocab) continue;
    return Invalid("logit_bias names token {}, beyond the vocabulary of {}", bias.token, vocab);
  }
  return absl::OkStatus();
}

absl::Status CheckTopLogprobs(uint32_t top_logprobs, uint32_t vocab) {
  const uint32_t most = std::min(vocab, limits::kMaxTopLogprobs);
  if (top_logprobs <= most) return absl::OkStatus();
  return Invalid("top_logprobs is {}; at most {} can be had with a vocabulary of {} (0 asks for none)", top_logprobs,
                 most, vocab);
}

absl::Status CheckTurnTokens(const GenerateSpec& spec, uint32_t vocab) {
  TRIBUTARY_RETURN_IF_ERROR(CheckTokens("prompt_tokens", spec.prompt_tokens, vocab));
  TRIBUTARY_RETURN_IF_ERROR(CheckTokens("forced_tokens", spec.forced_tokens, vocab));
  TRIBUTARY_RETURN_IF_ERROR(CheckTokens("stop_tokens", spec.stop_tokens, vocab));
  TRIBUTARY_RETURN_IF_ERROR(CheckSampling(spec.sampling, vocab));
  return CheckTopLogprobs(spec.top_logprobs, vocab);
}

template <typename T>
absl::Status Differs(std::string_view what, const T& asked, const T& kept) {
  return absl::FailedPreconditionError(
      fmt::format("{} is {}, but the kept sequence has {}, and that cannot change; leave it out, or "
                  "send all tokens as a new request",
                  what, asked, kept));
}

// What the continuation states must be what is; the rest is open.
absl::Status CheckSamePlacement(const PlacementOptions& asked, const PlacementOptions& kept) {
  const auto differs = [](auto stated, auto value) { return stated != decltype(stated){} && stated != value; };
  if (asked.all_resident && !kept.all_resident) return Differs("all_resident", true, false);
  if (differs(asked.window_tokens, kept.window_tokens))
    return Differs("window_tokens", asked.window_tokens, kept.window_tokens);
  if ((asked.has_sink_tokens || asked.sink_tokens != 0) && asked.sink_tokens != kept.sink_tokens)
    return Differs("sink_tokens", asked.sink_tokens, kept.sink_tokens);
  if (differs(asked.block_tokens, kept.block_tokens))
    return Differs("block_tokens", asked.block_tokens, kept.block_tokens);
  if (differs(asked.max_nodes, kept.max_nodes)) return Differs("max_nodes", asked.max_nodes, kept.max_nodes);
  if (differs(asked.cut, kept.cut)) return Differs("cut", CutName(asked.cut), CutName(kept.cut));
  for (const auto& [what, stated, value] : {std::tuple("kv_dtype", asked.kv_dtype, kept.kv_dtype),
                                            std::tuple("remote_k_dtype", asked.remote_k_dtype, kept.remote_k_dtype),
                                            std::tuple("remote_v_dtype", asked.remote_v_dtype, kept.remote_v_dtype)}) {
    if (differs(stated, value)) return Differs(what, DTypeName(stated), DTypeName(value));
  }
  return absl::OkStatus();
}

// Likewise.
absl::Status CheckSamePolicy(const PolicyRequest& request, const PolicyParams& kept) {
  TRIBUTARY_ASSIGN_OR_RETURN(const PolicyRequest asked, ExpandQuality(request));
  if (!asked.name.empty() && asked.name != kept.name()) {
    return Differs("the policy", Printable(asked.name, kMaxShownBytes), std::string(kept.name()));
  }
  for (const NamedValue& given : asked.parameters) {
    const ParameterRow* const row = kept.rules().Find(given.name);
    if (row == nullptr) {
      return Differs(Printable(given.name, kMaxShownBytes), Printable(given.value.Text(), kMaxShownBytes),
                     std::string("none"));
    }
    if (given.value.is_empty_list()) continue;
    TRIBUTARY_ASSIGN_OR_RETURN(const ParameterValue value, CheckedValue(*row, given.value, {}));
    const ParameterValue& has = *kept.Find(given.name);
    if (value != has) return Differs(given.name, value.Text(), has.is_empty_list() ? "none" : has.Text());
  }
  return absl::OkStatus();
}

absl::Status CheckPlacement(const PlacementOptions& placement, const ModelGeometry& geometry) {
  if (!IsValidDType(placement.kv_dtype)) {
    return Invalid("kv_dtype {} is not known; use f32, bf16 or f16", static_cast<int>(placement.kv_dtype));
  }
  for (const DType dtype : {placement.remote_k_dtype, placement.remote_v_dtype}) {
    if (IsKvDType(dtype)) continue;
    return Invalid(
        "remote_k_dtype {} or remote_v_dtype {} is not known; use f32, bf16, f16, int8, int4 or "
        "fp8-e4m3",
        static_cast<int>(placement.remote_k_dtype), static_cast<int>(placement.remote_v_dtype));
  }
  if (static_cast<int>(placement.cut) < 0 || static_cast<int>(placement.cut) > 3) {
    return Invalid("cut {} is not known; use auto, tokens, heads or both", static_cast<int>(placement.cut));
  }
  if (placement.block_tokens == 0 || placement.block_tokens > limits::kMaxBlockTokens) {
    return Invalid("block_tokens is {}; allowed are 1 to {}", placement.block_tokens, limits::kMaxBlockTokens);
  }
  if (placement.all_resident) return absl::OkStatus();
  if (placement.window_tokens < placement.block_tokens) {
    return Invalid(
        "window_tokens ({}) is smaller than block_tokens ({}); raise the window or use "
        "smaller blocks",
        placement.window_tokens, placement.block_tokens);
  }
  if (placement.window_tokens > limits::kMaxContextTokens || placement.sink_tokens > limits::kMaxContextTokens) {
    return Invalid("window_tokens ({}) and sink_tokens ({}) must not exceed {}", placement.window_tokens,
                   placement.sink_tokens, limits::kMaxContextTokens);
  }
  if (placement.cut == Cut::kBoth && geometry.attention.num_kv_heads < 2) {
    return Invalid("cut 'both' needs at least 2 KV heads, the model has {}; use 'tokens'",
                   geometry.attention.num_kv_heads);
  }
  return absl::OkStatus();
}

}  // namespace

PlacementOptions ResolvePlacement(const PlacementOptions& requested, const PlacementOptions& defaults) {
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

void WidenWindow(const ModelGeometry& geometry, PlacementOptions& placement) {
  placement.window_tokens = std::max(placement.window_tokens, geometry.sliding_window_tokens);
}

absl::StatusOr<PolicyParams> ResolveRequestPolicy(const GenerateSpec& spec, const ServingLimits& limits) {
  return ResolvePolicy(spec.policy, {.block_tokens = spec.placement.block_tokens,
                                     .num_layers = limits.geometry.num_shard_layers(),
                                     .num_kv_heads = limits.geometry.attention.num_kv_heads});
}

absl::Status CheckRequest(const GenerateSpec& spec, const ServingLimits& limits) {
  TRIBUTARY_RETURN_IF_ERROR(CheckLengths(spec, limits));
  TRIBUTARY_RETURN_IF_ERROR(CheckKeep(spec, limits));
  TRIBUTARY_RETURN_IF_ERROR(CheckTurnTokens(spec, limits.geometry.vocab_size));
  TRIBUTARY_RETURN_IF_ERROR(CheckPlacement(spec.placement, limits.geometry));
  return ResolveRequestPolicy(spec, limits).status();
}

absl::Status CheckContinuation(const GenerateSpec& spec, const KeptState& kept) {
  if (spec.max_tokens == 0) return Invalid("max_tokens is 0; ask for at least 1");
  TRIBUTARY_RETURN_IF_ERROR(CheckForced(spec));
  TRIBUTARY_RETURN_IF_ERROR(CheckTurnTokens(spec, kept.geometry.vocab_size));
  TRIBUTARY_RETURN_IF_ERROR(CheckLease(spec.lease));
  if (!spec.request_id.empty() && spec.request_id != spec.continue_request_id) {
    return Invalid(
        "request_id is '{}' and continue_request_id '{}'; a sequence keeps its id: leave "
        "request_id empty",
        spec.request_id, spec.continue_request_id);
  }
  PlacementOptions asked = spec.placement;
  if (asked.window_tokens != 0) WidenWindow(kept.geometry, asked);
  TRIBUTARY_RETURN_IF_ERROR(CheckSamePlacement(asked, kept.placement));
  TRIBUTARY_RETURN_IF_ERROR(CheckSamePolicy(spec.policy, kept.policy));
  const KeepOptions& keep = spec.lease;
  if (keep.max_context_tokens != 0 && keep.max_context_tokens != kept.reserved_context_tokens) {
    return Differs("keep.max_context_tokens", keep.max_context_tokens, kept.reserved_context_tokens);
  }
  const uint64_t growth = kept.reserved_context_tokens - kept.context_tokens;
  if (spec.prompt_tokens.size() + spec.max_tokens > growth) {
    return absl::OutOfRangeError(
        fmt::format("{} prompt tokens and max_tokens {} are {}, but the kept sequence may grow by {} (it has "
                    "{} "
                    "tokens of the {} reserved by keep.max_context_tokens); ask for less, or send all of it as "
                    "a new request with a larger reservation",
                    spec.prompt_tokens.size(), spec.max_tokens, spec.prompt_tokens.size() + spec.max_tokens, growth,
                    kept.context_tokens, kept.reserved_context_tokens));
  }
  return absl::OkStatus();
}

}  // namespace tributary
