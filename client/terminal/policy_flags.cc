#include "client/terminal/policy_flags.h"

#include <functional>
#include <span>
#include <utility>

#include "CLI/CLI.hpp"
#include "fmt/format.h"
#include "policy/policy_registry.h"
#include "policy/quality_levels.h"

namespace tributary {
namespace {

constexpr const char* kPolicyGroup = "What is read of the KV (defaults: those of the policy)";

const char* TypeName(ParameterType type) {
  switch (type) {
    case ParameterType::kNumber:
      return "FLOAT";
    case ParameterType::kCount:
    case ParameterType::kLayers:
      return "UINT";
    case ParameterType::kWord:
    case ParameterType::kHeads:
      return "TEXT";
  }
  return "TEXT";
}

ParameterValue ParseOrThrow(const ParameterRow& row, std::span<const std::string> texts) {
  absl::StatusOr<ParameterValue> value = ParseValue(row, texts);
  if (!value.ok()) throw CLI::ValidationError(std::string(value.status().message()));
  return *std::move(value);
}

void AddQualityFlag(CLI::App& app, std::string& quality) {
  std::vector<std::string> names;
  std::string help = "A named setting instead of --policy and its parameters:";
  for (const QualityLevel& level : QualityLevels()) {
    help += fmt::format("{} {} reads {}", names.empty() ? "" : ",", level.name, level.help);
    names.emplace_back(level.name);
  }
  app.add_option("--quality", quality, help)->check(CLI::IsMember(names))->group(kPolicyGroup);
}

}  // namespace

void AddPolicyFlags(CLI::App& app, PolicyRequest& policy) {
  app.add_option("--policy", policy.name,
                 fmt::format("Attention policy, one of {}; default {}", PolicyNames(), Policies().front()->name))
      ->group(kPolicyGroup);
  AddQualityFlag(app, policy.quality);
  for (const ParameterColumn& column : AllParameters()) {
    const ParameterRow& row = *column.row;
    if (IsListType(row.type)) {
      app.add_option_function<std::vector<std::string>>(
             FlagOf(row),
             [&row, &policy](const std::vector<std::string>& texts) { policy.Set(row.name, ParseOrThrow(row, texts)); },
             column.help)
          ->delimiter(',')
          ->type_name(TypeName(row.type))
          ->group(kPolicyGroup);
    } else {
      app.add_option_function<std::string>(
             FlagOf(row),
             [&row, &policy](const std::string& text) {
               policy.Set(row.name, ParseOrThrow(row, {&text, 1}));
             },
             column.help)
          ->type_name(TypeName(row.type))
          ->group(kPolicyGroup);
    }
  }
}

void AddPolicyGridFlags(CLI::App& app, const char* group, std::vector<ParameterAxis>& axes) {
  for (const ParameterColumn& column : AllParameters()) {
    const ParameterRow& row = *column.row;
    const auto set = [&row, &axes](const std::vector<std::string>& texts) {
      ParameterAxis& axis = axes.emplace_back(ParameterAxis{std::string(row.name), {}});
      if (IsListType(row.type)) {
        axis.values.push_back(ParseOrThrow(row, texts));
        return;
      }
      for (const std::string& text : texts) axis.values.push_back(ParseOrThrow(row, {&text, 1}));
    };
    app.add_option_function<std::vector<std::string>>(FlagOf(row), set, column.help)
        ->delimiter(',')
        ->type_name(TypeName(row.type))
        ->group(group);
  }
}

}  // namespace tributary
