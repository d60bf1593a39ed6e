// The parameters that every sparse policy has.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policy/parameter.h"
#include "policy/policy_params.h"

namespace tributary {

struct SparseParams {
  double min_kept_mass = 0;            // a KV head that kept less at its last sample reads everything; 0 = never
  double max_output_error = 0;         // likewise one whose merged output was more wrong; 0 = never
  double quality_sample_rate = 0;      // share of the steps that are measured
  std::vector<uint32_t> dense_layers;  // read everything, always
  std::vector<LayerHead> dense_heads;

  // True if the configuration says so: its layer or the head itself is among the above.
  bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const;

  friend bool operator==(const SparseParams&, const SparseParams&) = default;
};

// A policy's own rows, and behind them those of every sparse policy.
std::vector<ParameterRow> WithSparseParameters(std::span<const ParameterRow> own);

// For a policy that is not sparse, nothing is measured, and nobody falls back.
SparseParams ReadSparseParams(const PolicyParams& params);

// INVALID_ARGUMENT: a floor or a limit that is never measured.
absl::Status CheckSparseParams(const PolicyParams& params);

}  // namespace tributary
