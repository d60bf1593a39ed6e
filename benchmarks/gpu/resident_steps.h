// Decode steps of a device alone, of sequences that are resident as a whole.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "gpu_worker/device/device.h"
#include "policy/policy_params.h"

namespace tributary {

struct ResidentSteps {
  uint32_t batch = 1;
  uint32_t context_tokens = 0;
  uint32_t num_layers = 0;
  uint32_t num_kv_heads = 0;
  uint32_t exchange_slots = 0;         // > 0: the host answers each layer's q at once, with so many empty partials
  std::optional<PolicyParams> policy;  // with its facet
  uint32_t steps = 24;                 // timed, after a few more
};

struct ResidentTimes {
  double step_us = 0;        // median
  double first_step_us = 0;  // the very first one: a graph may have to be recorded
  double leave_us = 0;       // what the facet takes for a block of 256 tokens that leaves
};

// Bf16 KV. INTERNAL if a step's result is not finite; else the device's errors.
absl::StatusOr<ResidentTimes> RunResidentSteps(const ResidentSteps& spec, Device* device);

}  // namespace tributary
