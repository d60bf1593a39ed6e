// The toy policy: a query reads every n-th block of 16 tokens, the next query of the sequence the blocks behind those.
// It is no good for anything but to show that a policy fits into its four seats, and that nothing else knows of it: the
// folders of production have not a word of it, a test binary adds it (AddToyPolicy).
#pragma once

#include "policy/policy.h"
#include "policy/policy_registry.h"

namespace tributary::toy {

struct ToyParams {
  uint64_t every = 4;
};
ToyParams ReadToyParams(const PolicyParams& params);

// One parameter of its own, `every`, and those of all sparse policies.
const PolicyRules& ToyRules();

// Adds the policy to every table of this process; call it once, before any is used.
void AddToyPolicy();

}  // namespace tributary::toy
