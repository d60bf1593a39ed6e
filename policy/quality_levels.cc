#include "policy/quality_levels.h"

#include <algorithm>

#include "base/outside_text.h"
#include "fmt/format.h"
#include "policy/policy_registry.h"

namespace tributary {
namespace {

// Whether some policy has it and it is about watching alone. What nobody has is reported with the policy.
bool OnlyWatches(std::string_view parameter) {
  for (const ParameterColumn& column : AllParameters()) {
    if (column.row->name == parameter) return !column.row->names_setting;
  }
  return true;
}

}  // namespace

const std::vector<QualityLevel>& QualityLevels() {
  static const std::vector<QualityLevel> levels{
      {"exact", {.name = "dense", .parameters = {}}, "everything"},
      {"high", {.name = "delta", .parameters = {{"max_share", 0.04}}}, "4 % of the remote tokens per query head"},
      {"balanced", {.name = "delta", .parameters = {{"max_share", 0.01}}}, "1 %"},
      {"fast", {.name = "delta", .parameters = {{"max_share", 0.005}}}, "0.5 %"},
  };
  return levels;
}

std::string QualityNames() {
  std::string names;
  for (const QualityLevel& level : QualityLevels()) names += fmt::format("{}{}", names.empty() ? "" : ", ", level.name);
  return names;
}

absl::StatusOr<PolicyRequest> ExpandQuality(const PolicyRequest& request) {
  if (request.quality.empty()) return request;
  const std::vector<QualityLevel>& levels = QualityLevels();
  const auto level = std::find_if(levels.begin(), levels.end(),
                                  [&request](const QualityLevel& known) { return known.name == request.quality; });
  if (level == levels.end()) {
    return absl::InvalidArgumentError(fmt::format("quality '{}' is not known; use one of {}",
                                                  Printable(request.quality, kMaxShownBytes), QualityNames()));
  }
  if (!request.name.empty()) {
    return absl::InvalidArgumentError(
        fmt::format("quality {} chooses the policy ({}), but policy {} is asked for, too; drop one of them",
                    level->name, level->policy.name, Printable(request.name, kMaxShownBytes)));
  }
  PolicyRequest expanded = level->policy;
  for (const NamedValue& given : request.parameters) {
    if (!OnlyWatches(given.name)) {
      return absl::InvalidArgumentError(fmt::format(
          "quality {} chooses the parameters of policy {}, but {} is {}; drop it, or ask for a policy instead",
          level->name, level->policy.name, Printable(given.name, kMaxShownBytes),
          Printable(given.value.Text(), kMaxShownBytes)));
    }
    expanded.parameters.push_back(given);  // one that is given twice stays so, and is refused by ResolvePolicy
  }
  return expanded;
}

}  // namespace tributary
