// What one sequence contributes to a step.
#pragma once

#include <cstdint>

#include "gpu_worker/engine/sequence.h"

namespace tributary {

// Some successive tokens of a sequence, in one step: one while it decodes, a chunk while it appends.
struct BatchEntry {
  Sequence* sequence = nullptr;
  uint32_t num_tokens = 1;
};

}  // namespace tributary
