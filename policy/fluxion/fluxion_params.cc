#include "policy/fluxion/fluxion_params.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <memory>
#include <string_view>

#include "base/check.h"
#include "base/status.h"
#include "fmt/format.h"
#include "policy/fluxion/fluxion.h"
#include "policy/policy_registry.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

constexpr std::string_view kName = "fluxion";
constexpr std::string_view kModes[] = {"calibrated", "fixed", "predictor", "oracle"};  // by BudgetMode
constexpr uint32_t kFixedBlockTokens = 16;

constexpr ParameterRow kRows[] = {
    WordRow("budget_mode", kName, kModes, "calibrated", "who says how many blocks a query head reads"),
    CountRow(
        "select_block_tokens", kName, {0, 128}, 0,
        "tokens of a block that is read or left out, 16, 32, 64 or 128, 0: what reads the fewest bytes, fixed: 16"),
    NumberRow("budget", kName, {0, 1}, 0.05, "fixed: share of the remote tokens that each query head reads"),
    NumberRow("captured_mass", kName, {0, 1}, 0,
              "calibrated: share of the estimated softmax that is resident or read, 0: as target_output_error needs"),
    NumberRow("min_block_mass", kName, {0, 1}, 0, "calibrated: a block that holds less of the softmax is not read"),
    NumberRow("max_budget", kName, {0, 1}, 0.1,
              "calibrated, predictor: share of the remote tokens that a query head may read"),
    NumberRow("target_output_error", kName, {0}, 0.05,
              "oracle, calibrated, predictor: error of a head's output, of the largest output of its layer"),
};

absl::Status CheckAboveZero(const PolicyParams& params, std::string_view name, std::string_view use) {
  if (params.number(name) > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("{} is {}; use {}", name, params.number(name), use));
}

absl::Status Complete(const PolicyContext&, const PolicyRequest& asked, PolicyParams* params) {
  for (const std::string_view name : {"budget", "max_budget"}) {
    TRIBUTARY_RETURN_IF_ERROR(CheckAboveZero(*params, name, "a share above 0, up to 1, which reads everything"));
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckAboveZero(*params, "target_output_error", "a number above 0, such as 0.1"));
  const bool is_fixed = ReadFluxionParams(*params).mode == BudgetMode::kFixed;
  if (is_fixed && asked.Find("select_block_tokens") == nullptr) {
    params->Set("select_block_tokens", uint64_t{kFixedBlockTokens});
  }
  const uint64_t block_tokens = params->count("select_block_tokens");
  const bool is_size = block_tokens >= 16 && std::has_single_bit(block_tokens);
  if (is_size || (block_tokens == 0 && !is_fixed)) return absl::OkStatus();
  return absl::InvalidArgumentError(fmt::format("select_block_tokens is {}; use 16, 32, 64 or 128{}", block_tokens,
                                                is_fixed ? " with budget_mode fixed" : ", or 0 for the best of them"));
}

bool Uses(const PolicyParams& params, std::string_view parameter) {
  const BudgetMode mode = ReadFluxionParams(params).mode;
  if (parameter == "budget") return mode == BudgetMode::kFixed;
  if (parameter == "target_output_error") return mode != BudgetMode::kFixed;
  if (parameter == "max_budget") return mode == BudgetMode::kCalibrated || mode == BudgetMode::kPredictor;
  if (parameter == "captured_mass" || parameter == "min_block_mass") {
    return mode == BudgetMode::kCalibrated;
  }
  return true;
}

std::unique_ptr<const AttentionPolicy> Make(const PolicyParams& params) {
  return std::make_unique<FluxionPolicy>(ReadFluxionParams(params), ReadSparseParams(params));
}

BudgetMode ModeOf(std::string_view word) {
  const auto* const mode = std::find(std::begin(kModes), std::end(kModes), word);
  TRIBUTARY_CHECK(mode != std::end(kModes));
  return static_cast<BudgetMode>(mode - std::begin(kModes));
}

}  // namespace

FluxionParams ReadFluxionParams(const PolicyParams& params) {
  return {.mode = ModeOf(params.word("budget_mode")),
          .block_tokens = static_cast<uint32_t>(params.count("select_block_tokens")),
          .budget = params.number("budget"),
          .captured_mass = params.number("captured_mass"),
          .min_block_mass = params.number("min_block_mass"),
          .max_budget = params.number("max_budget"),
          .target_output_error = params.number("target_output_error")};
}

const PolicyRules& FluxionRules() {
  static const PolicyRules rules{.name = kName,
                                 .is_sparse = true,
                                 .parameters = WithSparseParameters(kRows),
                                 .complete = &Complete,
                                 .uses = &Uses,
                                 .make = &Make};
  return rules;
}

}  // namespace tributary
