// An evaluation as JSON (for scripts and tools/eval_figures.py), CSV (one row per setting) and a table (for people).
// client/eval/README.md states the schema.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/eval/eval_results.h"
#include "nlohmann/json.hpp"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

inline constexpr const char* kEvalSchema = "tributary.eval/1";

struct EvalReport {
  v1::StatusResponse cluster;          // version, model, geometry
  std::vector<SettingResult> results;  // of EvalPlan::settings, in order; may be fewer, the last one cut short
  absl::Status status;                 // why it ended early
};

nlohmann::ordered_json EvalJson(const EvalPlan& plan, const EvalReport& report);
std::string EvalCsv(const EvalPlan& plan, const EvalReport& report);
std::string EvalTable(const EvalPlan& plan, const EvalReport& report);

// "dense", or "NAME alpha=0.5": the parameters that were given, without those that only watch.
std::string SettingName(const EvalSetting& setting);

}  // namespace tributary
