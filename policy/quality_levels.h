// Named settings: one word that stands for a policy and its parameters, chosen by what docs/quality.md measured. This
// is the only table of them. Clients send the word, and the coordinator, which checks and completes a policy anyway,
// looks it up: so all clients of a cluster mean the same by it, and only complete policies travel on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "policy/policy_params.h"

namespace tributary {

struct QualityLevel {
  std::string_view name;
  PolicyRequest policy;  // what it stands for
  std::string_view help;
};

// From the one that leaves nothing out to the one that reads least.
const std::vector<QualityLevel>& QualityLevels();
// "exact, high".
std::string QualityNames();

// The same request with its quality level, if it names one, replaced by what that stands for. INVALID_ARGUMENT: no such
// level; a policy or a parameter beside it that the level decides. Parameters that only say how a policy is watched
// (ParameterRow::names_setting) may stand beside it.
absl::StatusOr<PolicyRequest> ExpandQuality(const PolicyRequest& request);

}  // namespace tributary
