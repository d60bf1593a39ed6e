#include "policy/policy_params.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

struct PolicyEntry {
  PolicyKind kind;
  std::string_view name;
  bool served;
};
constexpr std::array<PolicyEntry, 2> kPolicies{{
    {PolicyKind::kDense, "dense", true},
    {PolicyKind::kHgca, "hgca", true},
}};

constexpr std::array<std::string_view, 6> kHgcaParameters{
    "alpha", "beta", "keep_min", "keep_next", "group_aggregate", "max_cache_tokens"};
constexpr std::array<std::string_view, 4> kSparseParameters{"min_kept_mass", "quality_sample_rate", "dense_layers",
                                                            "dense_heads"};

template <typename... Args>
absl::Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}

std::string ServedNames() {
  std::string names;
  for (const PolicyEntry& entry : kPolicies) {
    if (entry.served) names += fmt::format("{}{}", names.empty() ? "" : ", ", entry.name);
  }
  return names;
}

// Written so that NaN fails.
absl::Status CheckShare(std::string_view what, double value) {
  if (value >= 0 && value <= 1) return absl::OkStatus();
  return Invalid("{} is {}; use a number from 0 to 1", what, value);
}

template <size_t n>
bool Contains(const std::array<std::string_view, n>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

absl::Status CheckOwnership(PolicyKind kind, const PolicyRequest& request) {
  for (const std::string_view parameter : ParametersGiven(request)) {
    if (HasParameter(kind, parameter)) continue;
    return Invalid("{} is a parameter of {}, but the policy is {}; drop it or ask for the other", parameter,
                   Contains(kHgcaParameters, parameter) ? "policy hgca" : "sparse policies", PolicyName(kind));
  }
  return absl::OkStatus();
}

absl::StatusOr<GroupAggregate> ParseAggregate(const std::string& name) {
  if (name == "max") return GroupAggregate::kMax;
  if (name == "mean") return GroupAggregate::kMean;
  return Invalid("group_aggregate '{}' is not known; use max or mean", name);
}

absl::StatusOr<HgcaParams> ResolveHgca(const PolicyRequest& request, const PolicyContext& context) {
  HgcaParams params;
  params.alpha = request.alpha.value_or(params.alpha);
  TRIBUTARY_RETURN_IF_ERROR(CheckShare("alpha", params.alpha));
  params.beta = request.beta.value_or(params.beta);
  if (!std::isfinite(params.beta) || params.beta < 0) {
    return Invalid("beta is {}; use 0 (read everything) or a larger, finite number", params.beta);
  }
  params.keep_min = request.keep_min.value_or(
      context.block_tokens == 0 ? params.keep_min : std::min(params.keep_min, context.block_tokens));
  if (context.block_tokens != 0 && params.keep_min > context.block_tokens) {
    return Invalid("keep_min is {}, more than the {} tokens of a block; use at most that, or larger blocks",
                   params.keep_min, context.block_tokens);
  }
  params.keep_next = request.keep_next.value_or(params.keep_next);
  if (params.keep_next > kMaxKeepNext) {
    return Invalid("keep_next is {}; use at most {}", params.keep_next, kMaxKeepNext);
  }
  if (request.group_aggregate.has_value()) {
    TRIBUTARY_ASSIGN_OR_RETURN(params.group_aggregate, ParseAggregate(*request.group_aggregate));
  }
  params.max_cache_tokens = request.max_cache_tokens.value_or(params.max_cache_tokens);
  if (params.max_cache_tokens != 0 && params.beta == 0) {
    return Invalid("beta 0 reads everything, which max_cache_tokens {} forbids; drop one of them",
                   params.max_cache_tokens);
  }
  if (params.max_cache_tokens != 0 && params.max_cache_tokens / 2 < params.keep_min) {
    return Invalid("max_cache_tokens is {}; it must be at least twice keep_min ({})", params.max_cache_tokens,
                   params.keep_min);
  }
  return params;
}

absl::StatusOr<SparseParams> ResolveSparse(const PolicyRequest& request, const PolicyContext& context) {
  SparseParams params;
  params.min_kept_mass = request.min_kept_mass.value_or(params.min_kept_mass);
  TRIBUTARY_RETURN_IF_ERROR(CheckShare("min_kept_mass", params.min_kept_mass));
  params.quality_sample_rate = request.quality_sample_rate.value_or(params.quality_sample_rate);
  TRIBUTARY_RETURN_IF_ERROR(CheckShare("quality_sample_rate", params.quality_sample_rate));
  if (params.min_kept_mass > 0 && params.quality_sample_rate == 0) {
    return Invalid("min_kept_mass is {}, but quality_sample_rate 0 never measures it; set a rate above 0",
                   params.min_kept_mass);
  }
  for (const uint32_t layer : request.dense_layers) {
    if (context.num_layers != 0 && layer >= context.num_layers) {
      return Invalid("dense_layers names layer {}; the model has layers 0 to {}", layer, context.num_layers - 1);
    }
  }
  for (const LayerHead& head : request.dense_heads) {
    if ((context.num_layers != 0 && head.layer >= context.num_layers) ||
        (context.num_kv_heads != 0 && head.kv_head >= context.num_kv_heads)) {
      return Invalid("dense_heads names {}:{}; the model has {} layers and {} KV heads", head.layer, head.kv_head,
                     context.num_layers, context.num_kv_heads);
    }
  }
  params.dense_layers = request.dense_layers;
  params.dense_heads = request.dense_heads;
  return params;
}

std::string_view AggregateName(GroupAggregate how) { return how == GroupAggregate::kMax ? "max" : "mean"; }

}  // namespace

std::string_view PolicyName(PolicyKind kind) {
  for (const PolicyEntry& entry : kPolicies) {
    if (entry.kind == kind) return entry.name;
  }
  return "unknown";
}

absl::StatusOr<PolicyKind> ParsePolicyName(const std::string& name) {
  if (name.empty()) return PolicyKind::kDense;
  for (const PolicyEntry& entry : kPolicies) {
    if (entry.name == name) return entry.kind;
  }
  return Invalid("policy '{}' is not known; this build has: {}", name, ServedNames());
}

absl::Status CheckServed(PolicyKind kind) {
  for (const PolicyEntry& entry : kPolicies) {
    if (entry.kind == kind && entry.served) return absl::OkStatus();
  }
  return absl::UnimplementedError(
      fmt::format("policy '{}' cannot be decoded with yet; this build has: {}", PolicyName(kind), ServedNames()));
}

std::vector<std::string_view> ParametersGiven(const PolicyRequest& request) {
  const std::pair<std::string_view, bool> fields[] = {
      {"alpha", request.alpha.has_value()},
      {"beta", request.beta.has_value()},
      {"keep_min", request.keep_min.has_value()},
      {"keep_next", request.keep_next.has_value()},
      {"group_aggregate", request.group_aggregate.has_value()},
      {"max_cache_tokens", request.max_cache_tokens.has_value()},
      {"min_kept_mass", request.min_kept_mass.has_value()},
      {"quality_sample_rate", request.quality_sample_rate.has_value()},
      {"dense_layers", !request.dense_layers.empty()},
      {"dense_heads", !request.dense_heads.empty()},
  };
  std::vector<std::string_view> given;
  for (const auto& [name, is_given] : fields) {
    if (is_given) given.push_back(name);
  }
  return given;
}

bool HasParameter(PolicyKind kind, std::string_view parameter) {
  if (kind == PolicyKind::kDense) return false;
  if (Contains(kSparseParameters, parameter)) return true;
  return kind == PolicyKind::kHgca && Contains(kHgcaParameters, parameter);
}

absl::StatusOr<PolicyParams> ResolvePolicy(const PolicyRequest& request, const PolicyContext& context) {
  PolicyParams params;
  TRIBUTARY_ASSIGN_OR_RETURN(params.kind, ParsePolicyName(request.name));
  TRIBUTARY_RETURN_IF_ERROR(CheckOwnership(params.kind, request));
  if (params.kind == PolicyKind::kDense) return params;
  TRIBUTARY_ASSIGN_OR_RETURN(params.sparse, ResolveSparse(request, context));
  if (params.kind == PolicyKind::kHgca) {
    TRIBUTARY_ASSIGN_OR_RETURN(params.hgca, ResolveHgca(request, context));
  }
  return params;
}

PolicyRequest CompleteRequest(const PolicyParams& params) {
  PolicyRequest request;
  request.name = PolicyName(params.kind);
  if (params.kind == PolicyKind::kDense) return request;
  request.min_kept_mass = params.sparse.min_kept_mass;
  request.quality_sample_rate = params.sparse.quality_sample_rate;
  request.dense_layers = params.sparse.dense_layers;
  request.dense_heads = params.sparse.dense_heads;
  if (params.kind == PolicyKind::kHgca) {
    request.alpha = params.hgca.alpha;
    request.beta = params.hgca.beta;
    request.keep_min = params.hgca.keep_min;
    request.keep_next = params.hgca.keep_next;
    request.group_aggregate = AggregateName(params.hgca.group_aggregate);
    request.max_cache_tokens = params.hgca.max_cache_tokens;
  }
  return request;
}

absl::StatusOr<PolicyParams> ParseComplete(const PolicyRequest& request, const PolicyContext& context) {
  TRIBUTARY_ASSIGN_OR_RETURN(PolicyParams params, ResolvePolicy(request, context));
  const PolicyRequest complete = CompleteRequest(params);
  if (complete == request) return params;
  const std::vector<std::string_view> given = ParametersGiven(request);
  for (const std::string_view parameter : ParametersGiven(complete)) {
    if (std::find(given.begin(), given.end(), parameter) != given.end()) continue;
    return Invalid("{} of policy {} is not stated; run the same release everywhere", parameter,
                   PolicyName(params.kind));
  }
  return Invalid("the policy has no name; run the same release everywhere");
}

}  // namespace tributary
