// How a sequence's tokens are picked from its logits.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace tributary {

struct SamplingParams {
  float temperature = 0;  // 0 = greedy
  uint32_t top_k = 0;     // 0 = off
  float top_p = 0;        // 0 or 1 = off
  uint64_t seed = 0;

  friend bool operator==(const SamplingParams&, const SamplingParams&) = default;
};

// INVALID_ARGUMENT with the offending value: temperature negative or not finite, top_p outside [0, 1].
absl::Status Validate(const SamplingParams& params);

}  // namespace tributary
