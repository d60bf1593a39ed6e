// Whether a request may enter at all. Pure. What it accepts cannot fail later for a reason that
// stands in the request.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cluster/cluster_types.h"
#include "cluster/generate_request.h"
#include "policy/policy_params.h"

namespace tributary {

struct AdmissionLimits {
  uint32_t max_running = 64;  // sequences that have been placed
  uint32_t max_queue = 256;   // sequences that wait for a place
  uint32_t max_kept = 32;     // of the placed ones: those that are kept, or will be
};

// What all workers serve that the request could go to: it must suit each of them.
struct ServingLimits {
  ModelGeometry geometry;
  uint64_t max_context_tokens = 0;  // 0 = not stated
  uint32_t max_prompt_tokens = 0;   // 0 = not stated
};

// Fills what the request leaves open. REQUIRES: `defaults` is complete.
PlacementOptions ResolvePlacement(const PlacementOptions& requested, const PlacementOptions& defaults);
// A window that is too small for the model's windowed layers becomes as large as they need.
void WidenWindow(const ModelGeometry& geometry, PlacementOptions& placement);

// The request's policy, checked against the model and the blocks. INVALID_ARGUMENT as of ResolvePolicy. REQUIRES:
// `spec.placement` is resolved.
absl::StatusOr<PolicyParams> ResolveRequestPolicy(const GenerateSpec& spec, const ServingLimits& limits);

// INVALID_ARGUMENT, naming the value and the remedy. REQUIRES: `spec.placement` is resolved.
absl::Status CheckRequest(const GenerateSpec& spec, const ServingLimits& limits);

// A kept sequence, as far as a continuation is checked against it.
struct KeptState {
  ModelGeometry geometry;
  PlacementOptions placement;  // resolved
  PolicyParams policy;
  uint64_t context_tokens = 0;           // prompts and answers that are there
  uint64_t reserved_context_tokens = 0;  // that there may be
};

// INVALID_ARGUMENT for what is wrong by itself; OUT_OF_RANGE: more tokens than were reserved;
// FAILED_PRECONDITION: another placement, policy or reservation than the sequence has, with both
// values. Only what `spec.placement` states is compared; it is not resolved.
absl::Status CheckContinuation(const GenerateSpec& spec, const KeptState& kept);

}  // namespace tributary
