#include "policy/policy_params.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "policy/policy_registry.h"
#include "policy/quality_levels.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

template <typename... Args>
absl::Status Invalid(fmt::format_string<Args...> format, Args&&... args) {
  return absl::InvalidArgumentError(fmt::format(format, std::forward<Args>(args)...));
}

// A parameter that the policy has not: another's, or nobody's.
absl::Status NoSuchParameter(const PolicyRules& policy, const NamedValue& given) {
  for (const ParameterColumn& column : AllParameters()) {
    if (column.row->name != given.name) continue;
    return Invalid("{} is {}, but it is a parameter of {} and the policy is {}; drop it or ask for another policy",
                   given.name, Printable(given.value.Text(), kMaxShownBytes), OwnerOf(*column.row), policy.name);
  }
  std::vector<std::string_view> names;
  for (const ParameterRow& row : policy.parameters) names.push_back(row.name);
  return Invalid("parameter '{}' ({}) is not known; policy {} has {}", Printable(given.name, kMaxShownBytes),
                 Printable(given.value.Text(), kMaxShownBytes), policy.name,
                 names.empty() ? std::string("none") : fmt::format("{}", fmt::join(names, ", ")));
}

absl::Status CheckNotTwice(const PolicyRequest& request) {
  if (request.parameters.size() > limits::kMaxPolicyParameters) {
    return Invalid("the policy has {} parameters; use at most {}", request.parameters.size(),
                   limits::kMaxPolicyParameters);
  }
  for (const NamedValue& given : request.parameters) {
    const ParameterValue& first = *request.Find(given.name);
    if (&first == &given.value) continue;
    return Invalid("{} is given twice ({} and {}); give it once", Printable(given.name, kMaxShownBytes),
                   Printable(first.Text(), kMaxShownBytes), Printable(given.value.Text(), kMaxShownBytes));
  }
  return absl::OkStatus();
}

}  // namespace

const ParameterValue* PolicyRequest::Find(std::string_view parameter) const {
  for (const NamedValue& given : parameters) {
    if (given.name == parameter) return &given.value;
  }
  return nullptr;
}

void PolicyRequest::Set(std::string_view parameter, ParameterValue value) {
  for (NamedValue& given : parameters) {
    if (given.name != parameter) continue;
    given.value = std::move(value);
    return;
  }
  parameters.push_back({std::string(parameter), std::move(value)});
}

PolicyParams::PolicyParams() : PolicyParams(*Policies().front()) {}

PolicyParams::PolicyParams(const PolicyRules& rules) : rules_(&rules) {
  for (const ParameterRow& row : rules.parameters) values_.push_back(DefaultOf(row));
}

std::string_view PolicyParams::name() const { return rules_->name; }
bool PolicyParams::is_sparse() const { return rules_->is_sparse; }

const ParameterValue* PolicyParams::Find(std::string_view parameter) const {
  const ParameterRow* const row = rules_->Find(parameter);
  return row == nullptr ? nullptr : &values_[static_cast<size_t>(row - rules_->parameters.data())];
}

const ParameterValue& PolicyParams::Value(std::string_view parameter) const {
  const ParameterValue* const value = Find(parameter);
  TRIBUTARY_CHECK(value != nullptr);
  return *value;
}

void PolicyParams::Set(std::string_view parameter, ParameterValue value) {
  ParameterValue& present = const_cast<ParameterValue&>(Value(parameter));
  TRIBUTARY_CHECK(present.type() == value.type());
  present = std::move(value);
}

absl::StatusOr<PolicyParams> ResolvePolicy(const PolicyRequest& asked, const PolicyContext& context) {
  TRIBUTARY_ASSIGN_OR_RETURN(const PolicyRequest request, ExpandQuality(asked));
  TRIBUTARY_ASSIGN_OR_RETURN(const PolicyRules* const policy, FindPolicy(request.name));
  TRIBUTARY_RETURN_IF_ERROR(CheckNotTwice(request));
  PolicyParams params(*policy);
  for (const NamedValue& given : request.parameters) {
    const ParameterRow* const row = policy->Find(given.name);
    if (row == nullptr) return NoSuchParameter(*policy, given);
    TRIBUTARY_ASSIGN_OR_RETURN(ParameterValue value, CheckedValue(*row, given.value, context));
    params.Set(given.name, std::move(value));
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckSparseParams(params));
  if (policy->complete != nullptr) TRIBUTARY_RETURN_IF_ERROR(policy->complete(context, request, &params));
  return params;
}

PolicyRequest CompleteRequest(const PolicyParams& params) {
  PolicyRequest request{.name = std::string(params.name()), .parameters = {}};
  for (const ParameterRow& row : params.rules().parameters) {
    request.parameters.push_back({std::string(row.name), *params.Find(row.name)});
  }
  return request;
}

absl::StatusOr<PolicyParams> ParseComplete(const PolicyRequest& request, const PolicyContext& context) {
  if (request.name.empty()) return Invalid("the policy has no name; run the same release everywhere");
  TRIBUTARY_ASSIGN_OR_RETURN(PolicyParams params, ResolvePolicy(request, context));
  for (const ParameterRow& row : params.rules().parameters) {
    if (request.Find(row.name) != nullptr) continue;
    return Invalid("{} of policy {} is not stated; run the same release everywhere", row.name, params.name());
  }
  return params;
}

}  // namespace tributary
