// The parameters of `delta`, read from a checked policy's values. Names, ranges, defaults and help are rows in the .cc.
#pragma once

#include <cstdint>

#include "policy/policy_params.h"

namespace tributary {

struct DeltaParams {
  uint32_t key_code_bits = 0;  // of a dim: 1, 2 or 4
  double max_share = 0;        // of the remote tokens that a query head reads at most, (0, 1]
  double delta_nats = 0;       // how far below the highest score a token that is read may lie; 0: anywhere

  friend bool operator==(const DeltaParams&, const DeltaParams&) = default;
};

// REQUIRES (checked): the policy is delta.
DeltaParams ReadDeltaParams(const PolicyParams& params);

}  // namespace tributary
