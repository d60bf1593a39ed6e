#include "policy/policy_registry.h"

#include <algorithm>

#include "base/check.h"
#include "base/outside_text.h"
#include "fmt/format.h"
#include "policy/policy.h"

namespace tributary {

#define TRIBUTARY_POLICY(name, Name) const PolicyRules& Name##Rules();
#include "policy/policies.def"

namespace {

std::vector<const PolicyRules*>& MutablePolicies() {
  static std::vector<const PolicyRules*> policies{
#define TRIBUTARY_POLICY(name, Name) &Name##Rules(),
#include "policy/policies.def"
  };
  return policies;
}

}  // namespace

const ParameterRow* PolicyRules::Find(std::string_view parameter) const {
  const auto found = std::find_if(parameters.begin(), parameters.end(),
                                  [parameter](const ParameterRow& row) { return row.name == parameter; });
  return found == parameters.end() ? nullptr : &*found;
}

const std::vector<const PolicyRules*>& Policies() { return MutablePolicies(); }

std::string PolicyNames() {
  std::string names;
  for (const PolicyRules* policy : Policies()) names += fmt::format("{}{}", names.empty() ? "" : ", ", policy->name);
  return names;
}

absl::StatusOr<const PolicyRules*> FindPolicy(std::string_view name) {
  if (name.empty()) return Policies().front();
  for (const PolicyRules* policy : Policies()) {
    if (policy->name == name) return policy;
  }
  return absl::InvalidArgumentError(
      fmt::format("policy '{}' is not known; this build has: {}", Printable(name, kMaxShownBytes), PolicyNames()));
}

void AddPolicy(const PolicyRules& rules) {
  TRIBUTARY_CHECK(!rules.name.empty() && !FindPolicy(rules.name).ok());
  TRIBUTARY_CHECK(rules.make != nullptr);
  for (const ParameterRow& row : rules.parameters) {
    TRIBUTARY_CHECK(rules.Find(row.name) == &row);  // no name twice
    for (const PolicyRules* other : Policies()) {
      const ParameterRow* const same = other->Find(row.name);
      TRIBUTARY_CHECK(same == nullptr || same->type == row.type);
    }
  }
  MutablePolicies().push_back(&rules);
}

std::vector<ParameterColumn> AllParameters() {
  std::vector<ParameterColumn> columns;
  for (const PolicyRules* policy : Policies()) {
    for (const ParameterRow& row : policy->parameters) {
      const auto column = std::find_if(columns.begin(), columns.end(),
                                       [&row](const ParameterColumn& c) { return c.row->name == row.name; });
      const std::string help = HelpOf(row);
      if (column == columns.end()) {
        columns.push_back({&row, help});
      } else if (column->help.find(help) == std::string::npos) {
        column->help += ". " + help;
      }
    }
  }
  return columns;
}

std::unique_ptr<const AttentionPolicy> MakePolicy(const PolicyParams& params) { return params.rules().make(params); }

}  // namespace tributary
