// The policies of this process: what each is called, its parameters, and how its rules are made. The built-in ones come
// from policy/policies.def; a test binary adds those that it brings along.
//
// A policy's folder defines `const PolicyRules& NameRules()` (policy/NAME/NAME_params.cc), which the registry calls
// once.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "policy/parameter.h"
#include "policy/policy_params.h"

namespace tributary {

class AttentionPolicy;

struct PolicyRules {
  std::string_view name;
  bool is_sparse = true;
  // Its own rows, and behind them those of every sparse policy (policy/sparse_params.h) if it is one.
  std::vector<ParameterRow> parameters;
  // Sets defaults that depend on the model or the request, and checks parameters against each other; each alone has
  // been checked. `asked` says which were given. May be null.
  absl::Status (*complete)(const PolicyContext& context, const PolicyRequest& asked, PolicyParams* params) = nullptr;
  // Whether a policy with these parameters ever looks at that one: what another parameter switches off is not worth a
  // setting of its own in an evaluation. Null: it looks at all of them.
  bool (*uses)(const PolicyParams& params, std::string_view parameter) = nullptr;
  std::unique_ptr<const AttentionPolicy> (*make)(const PolicyParams& params) = nullptr;

  // Null if there is none.
  const ParameterRow* Find(std::string_view parameter) const;
};

// They stand in the order of policies.def, and behind them those added.
const std::vector<const PolicyRules*>& Policies();
// "dense, toy".
std::string PolicyNames();

// INVALID_ARGUMENT, listing what there is, for a name that is no policy. "" is the first one.
absl::StatusOr<const PolicyRules*> FindPolicy(std::string_view name);

// Test binaries add their policies with this. `rules` lives as long as the process. Thread-compatible: call it before
// policies are used. REQUIRES (checked): a name of its own; parameters whose names are their own or, with the same
// type, another policy's.
void AddPolicy(const PolicyRules& rules);

// One entry per name, whichever policies have it, in the order of the policies and their rows: what flags and columns
// are made of.
struct ParameterColumn {
  const ParameterRow* row;  // of the first policy that has it
  std::string help;         // of all policies that have it
};
std::vector<ParameterColumn> AllParameters();

}  // namespace tributary
