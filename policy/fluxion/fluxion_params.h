// Fluxion's parameters, read from a checked policy's values. Names, ranges, defaults and help are rows in the .cc.
#pragma once

#include <cstdint>

#include "policy/policy_params.h"

namespace tributary {

// How many blocks a query head reads.
enum class BudgetMode : uint8_t {
  kCalibrated,  // as many as its blocks' bounds, corrected by what was measured, say that it needs
  kFixed,       // a share of them, whatever the query: the baseline
  kPredictor,   // as many as a predictor that was trained for the model says, on the worker
  kOracle,      // as many as the exact output needs, which the node works out first: for tests and measurements
};

struct FluxionParams {
  BudgetMode mode = BudgetMode::kCalibrated;
  uint32_t block_tokens = 0;  // 16, 32, 64 or 128; 0: the size that reads the fewest bytes, by KV head
  double budget = 0;          // kFixed: share of the remote tokens that a query head reads, (0, 1]
  // kCalibrated, of the estimated softmax over resident and remote tokens:
  double captured_mass = 0;   // what is resident or read holds this share, [0, 1]; 0: what target_output_error needs
  double min_block_mass = 0;  // a block that holds less is not read, [0, 1]
  // kCalibrated, kPredictor: share of the remote tokens that a query head reads at most, (0, 1]
  double max_budget = 0;
  // |o - o_full| / max over heads |o_full| that a head may have: kOracle reads as few blocks as keep to it, kCalibrated
  // and kPredictor read more of a head that a sample found above it. Above 0.
  double target_output_error = 0;

  friend bool operator==(const FluxionParams&, const FluxionParams&) = default;
};

// REQUIRES (checked): the policy is Fluxion.
FluxionParams ReadFluxionParams(const PolicyParams& params);

}  // namespace tributary
