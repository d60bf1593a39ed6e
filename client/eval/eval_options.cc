#include "client/eval/eval_options.h"

#include <algorithm>

#include "base/limits.h"
#include "base/status.h"
#include "client/eval/task.h"
#include "client/terminal/common_flags.h"
#include "fmt/format.h"
#include "policy/policy_registry.h"

namespace tributary {
namespace {

template <typename... Args>
absl::Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}

// The policy with every combination of the values of those parameters that it has, the first parameter outermost.
std::vector<PolicyRequest> PolicyGrid(const PolicyRules& policy, const EvalOptions& options) {
  std::vector<PolicyRequest> grid{{.name = std::string(policy.name), .parameters = {}}};
  for (const ParameterRow& row : policy.parameters) {
    for (const ParameterAxis& axis : options.parameters) {
      if (axis.name != row.name) continue;
      std::vector<PolicyRequest> product;
      for (const PolicyRequest& request : grid) {
        for (const ParameterValue& value : axis.values) {
          product.push_back(request);
          product.back().Set(row.name, value);
        }
      }
      grid = std::move(product);
    }
  }
  return grid;
}

// Without the parameters that it does not look at, given the others.
PolicyRequest WithoutUnused(const PolicyRequest& request, const PolicyParams& params) {
  if (params.rules().uses == nullptr) return request;
  PolicyRequest used{.name = request.name, .parameters = {}};
  for (const NamedValue& parameter : request.parameters) {
    if (params.rules().uses(params, parameter.name)) used.parameters.push_back(parameter);
  }
  return used;
}

absl::Status CheckParametersHaveAPolicy(const std::vector<const PolicyRules*>& policies, const EvalOptions& options) {
  for (const ParameterAxis& axis : options.parameters) {
    const bool used = std::any_of(policies.begin(), policies.end(),
                                  [&axis](const PolicyRules* policy) { return policy->Find(axis.name) != nullptr; });
    if (used) continue;
    std::string names;
    for (const PolicyRules* policy : policies) names += fmt::format("{}{}", names.empty() ? "" : ", ", policy->name);
    return Invalid("{} is no parameter of {}; drop it or add a policy that has it to --policy", axis.name, names);
  }
  return absl::OkStatus();
}

absl::Status CheckTasks(const EvalOptions& options) {
  if (options.lengths.empty()) {
    if (options.needles == 0) return absl::OkStatus();
    return Invalid("--needles {} needs --lengths L1,L2,...: the prompts' tokens", options.needles);
  }
  if (options.text_files.empty()) return Invalid("the tasks' prompts are made of a text; give --text-file FILE");
  for (const double depth : options.depths) {
    if (!(depth >= 0 && depth <= 1)) return Invalid("--depths has {}; use 0 to 1", depth);
  }
  bool asks_several = false;
  for (const std::string& name : options.tasks) {
    TRIBUTARY_ASSIGN_OR_RETURN(const TaskRow* const task, FindTask(name));
    if (task->has_needles && options.needles == 0) {
      return Invalid("--lengths is given, --tasks has {} and --needles is 0; say how many needles a prompt holds",
                     name);
    }
    asks_several |= task->asks_several;
  }
  if (options.turns && !asks_several) {
    return Invalid("--turns is for tasks that ask several questions; add multi-query to --tasks");
  }
  if (options.turns && options.decode_question) {
    return Invalid("--turns appends questions, --decode-question does not; drop one of them");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<EvalSetting>> ExpandGrid(const EvalOptions& options) {
  std::vector<const PolicyRules*> policies;
  for (const std::string& name : options.policies) {
    TRIBUTARY_ASSIGN_OR_RETURN(const PolicyRules* const policy, FindPolicy(name));
    if (std::find(policies.begin(), policies.end(), policy) == policies.end()) policies.push_back(policy);
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckParametersHaveAPolicy(policies, options));
  if (options.window_tokens.empty()) return Invalid("--window-tokens is empty; give at least one");
  // Exact attention comes first; without it in the list there is one run of it to compare with.
  std::vector<EvalSetting> settings;
  const auto dense = std::find(policies.begin(), policies.end(), &PolicyParams().rules());
  if (dense != policies.end()) {
    std::rotate(policies.begin(), dense, dense + 1);
  } else {
    settings.push_back({CompleteRequest(PolicyParams()), options.window_tokens.front()});
  }
  for (const PolicyRules* policy : policies) {
    for (const uint32_t window_tokens : options.window_tokens) {
      for (const PolicyRequest& request : PolicyGrid(*policy, options)) {
        TRIBUTARY_ASSIGN_OR_RETURN(const PolicyParams params,
                                   ResolvePolicy(request, {.block_tokens = options.layout.block_tokens}));
        const EvalSetting setting{WithoutUnused(request, params), window_tokens};
        const bool is_new = std::none_of(settings.begin(), settings.end(), [&setting](const EvalSetting& other) {
          return other.policy == setting.policy && other.window_tokens == setting.window_tokens;
        });
        if (is_new) settings.push_back(setting);
      }
    }
  }
  return settings;
}

absl::Status CheckEval(const EvalOptions& options) {
  TRIBUTARY_RETURN_IF_ERROR(CheckModelOrCoordinator(options.cluster, options.coordinator));
  if (options.text_files.empty() == options.text_tokens_files.empty()) {
    return Invalid("give either --text-file FILE or --text-tokens-file FILE");
  }
  if (options.decode_tokens == 0 && options.drift_tokens == 0 && options.lengths.empty() && options.needles == 0) {
    return Invalid("nothing is asked for; give --decode-tokens D, --drift-tokens D, or --lengths L1,L2,... for tasks");
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
  TRIBUTARY_RETURN_IF_ERROR(CheckTasks(options));
  return ExpandGrid(options).status();
}

}  // namespace tributary
