#include "client/eval/eval_options.h"

#include <algorithm>

#include "base/limits.h"
#include "base/status.h"
#include "client/eval/needle_prompt.h"
#include "client/terminal/common_flags.h"
#include "client/terminal/policy_flags.h"
#include "fmt/format.h"

namespace tributary {
namespace {

template <typename... Args>
absl::Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}

// Every request with every value of the list; as they are if the list is empty.
template <typename T>
void Multiply(const std::vector<T>& values, std::optional<T> PolicyRequest::*field,
              std::vector<PolicyRequest>* requests) {
  if (values.empty()) return;
  std::vector<PolicyRequest> product;
  for (const PolicyRequest& request : *requests) {
    for (const T& value : values) {
      product.push_back(request);
      product.back().*field = value;
    }
  }
  *requests = std::move(product);
}

// All parameters of the flags, at once: to see which are given.
PolicyRequest GivenParameters(const EvalOptions& options) {
  PolicyRequest given;
  if (!options.alphas.empty()) given.alpha = options.alphas[0];
  if (!options.betas.empty()) given.beta = options.betas[0];
  if (!options.keep_mins.empty()) given.keep_min = options.keep_mins[0];
  if (!options.keep_nexts.empty()) given.keep_next = options.keep_nexts[0];
  if (!options.group_aggregates.empty()) given.group_aggregate = options.group_aggregates[0];
  if (!options.max_cache_tokens.empty()) given.max_cache_tokens = options.max_cache_tokens[0];
  if (!options.min_kept_masses.empty()) given.min_kept_mass = options.min_kept_masses[0];
  given.quality_sample_rate = options.quality_sample_rate;
  given.dense_layers = options.dense_layers;
  given.dense_heads.resize(options.dense_heads.size());
  return given;
}

std::vector<PolicyRequest> PolicyGrid(PolicyKind kind, const EvalOptions& options,
                                      const std::vector<LayerHead>& dense_heads) {
  std::vector<PolicyRequest> grid{{.name = std::string(PolicyName(kind))}};
  if (HasParameter(kind, "alpha")) Multiply(options.alphas, &PolicyRequest::alpha, &grid);
  if (HasParameter(kind, "beta")) Multiply(options.betas, &PolicyRequest::beta, &grid);
  if (HasParameter(kind, "keep_min")) Multiply(options.keep_mins, &PolicyRequest::keep_min, &grid);
  if (HasParameter(kind, "keep_next")) {
    Multiply(options.keep_nexts, &PolicyRequest::keep_next, &grid);
  }
  if (HasParameter(kind, "group_aggregate")) {
    Multiply(options.group_aggregates, &PolicyRequest::group_aggregate, &grid);
  }
  if (HasParameter(kind, "max_cache_tokens")) {
    Multiply(options.max_cache_tokens, &PolicyRequest::max_cache_tokens, &grid);
  }
  if (HasParameter(kind, "min_kept_mass")) {
    Multiply(options.min_kept_masses, &PolicyRequest::min_kept_mass, &grid);
  }
  for (PolicyRequest& request : grid) {
    if (HasParameter(kind, "quality_sample_rate")) {
      request.quality_sample_rate = options.quality_sample_rate;
    }
    if (HasParameter(kind, "dense_layers")) request.dense_layers = options.dense_layers;
    if (HasParameter(kind, "dense_heads")) request.dense_heads = dense_heads;
  }
  return grid;
}

absl::Status CheckParametersHaveAPolicy(const std::vector<PolicyKind>& kinds, const EvalOptions& options) {
  for (const std::string_view parameter : ParametersGiven(GivenParameters(options))) {
    const bool used =
        std::any_of(kinds.begin(), kinds.end(), [parameter](PolicyKind kind) { return HasParameter(kind, parameter); });
    if (used) continue;
    std::string names;
    for (const PolicyKind kind : kinds) {
      names += fmt::format("{}{}", names.empty() ? "" : ", ", PolicyName(kind));
    }
    return Invalid("{} is no parameter of {}; drop it or add a policy that has it to --policy", parameter, names);
  }
  return absl::OkStatus();
}

absl::Status CheckNeedles(const EvalOptions& options) {
  if (options.needles == 0) {
    if (options.lengths.empty()) return absl::OkStatus();
    return Invalid("--lengths is given but --needles is 0; say how many needles a prompt holds");
  }
  if (options.lengths.empty()) {
    return Invalid("--needles {} needs --lengths L1,L2,...: the prompts' tokens", options.needles);
  }
  if (options.text_file.empty()) {
    return Invalid("needles are planted in a text; give --text-file FILE");
  }
  for (const double depth : options.depths) {
    if (!(depth >= 0 && depth <= 1)) return Invalid("--depths has {}; use 0 to 1", depth);
  }
  bool has_multi_query = false;
  for (const std::string& name : options.needle_kinds) {
    TRIBUTARY_ASSIGN_OR_RETURN(const NeedleKind kind, ParseNeedleKind(name));
    has_multi_query |= kind == NeedleKind::kMultiQuery;
  }
  if (options.turns && !has_multi_query) {
    return Invalid("--turns is for multi-query needles; add multi-query to --needle-kinds");
  }
  if (options.turns && options.decode_question) {
    return Invalid("--turns appends questions, --decode-question does not; drop one of them");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<EvalSetting>> ExpandGrid(const EvalOptions& options) {
  std::vector<PolicyKind> kinds;
  for (const std::string& name : options.policies) {
    TRIBUTARY_ASSIGN_OR_RETURN(const PolicyKind kind, ParsePolicyName(name));
    TRIBUTARY_RETURN_IF_ERROR(CheckServed(kind));
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) kinds.push_back(kind);
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckParametersHaveAPolicy(kinds, options));
  TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<LayerHead> dense_heads, ParseLayerHeads(options.dense_heads));
  if (options.window_tokens.empty()) return Invalid("--window-tokens is empty; give at least one");
  // Dense comes first; without it in the list there is one dense run to compare with.
  std::vector<EvalSetting> settings;
  const auto dense = std::find(kinds.begin(), kinds.end(), PolicyKind::kDense);
  if (dense != kinds.end()) {
    std::rotate(kinds.begin(), dense, dense + 1);
  } else {
    settings.push_back({{.name = "dense"}, options.window_tokens.front()});
  }
  for (const PolicyKind kind : kinds) {
    for (const uint32_t window_tokens : options.window_tokens) {
      for (const PolicyRequest& request : PolicyGrid(kind, options, dense_heads)) {
        TRIBUTARY_RETURN_IF_ERROR(ResolvePolicy(request, {.block_tokens = options.layout.block_tokens}).status());
        settings.push_back({request, window_tokens});
      }
    }
  }
  return settings;
}

absl::Status CheckEval(const EvalOptions& options) {
  TRIBUTARY_RETURN_IF_ERROR(CheckModelOrCoordinator(options.cluster, options.coordinator));
  if (options.text_file.empty() == options.text_tokens_file.empty()) {
    return Invalid("give either --text-file FILE or --text-tokens-file FILE");
  }
  if (options.decode_tokens == 0 && options.needles == 0) {
    return Invalid("nothing is asked for; give --decode-tokens D, or --needles N with --lengths");
  }
  if (options.top_logprobs.value_or(0) > limits::kMaxTopLogprobs) {
    return Invalid("--top-logprobs is {}; use at most {}", *options.top_logprobs, limits::kMaxTopLogprobs);
  }
  if (options.prefill_tokens == 0) return Invalid("--prefill-tokens is 0; use at least 1");
  for (const uint32_t window_tokens : options.window_tokens) {
    if (window_tokens == 0 || window_tokens > limits::kMaxContextTokens) {
      return Invalid("--window-tokens has {}; use 1 to {}", window_tokens, limits::kMaxContextTokens);
    }
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckNeedles(options));
  return ExpandGrid(options).status();
}

}  // namespace tributary
