// The flags that choose an attention policy: one per parameter of any policy, made from the policies' rows.
#pragma once

#include <string>
#include <vector>

#include "policy/policy_params.h"

namespace CLI {
class App;
}

namespace tributary {

// --policy, --quality and one flag per parameter into `policy`, which outlives `app`, for commands that make one
// request. A text that is no value of the parameter's type is CLI11's error, with the flag; whether it is allowed is
// for ResolvePolicy().
void AddPolicyFlags(CLI::App& app, PolicyRequest& policy);

// The values of a parameter that an evaluation tries.
struct ParameterAxis {
  std::string name;
  std::vector<ParameterValue> values;  // at least one; exactly one if the parameter is a list
};

// The same flags, but comma-separated lists of values (a parameter that is a list has one value). Those given are added
// to `axes`, which outlives `app`.
void AddPolicyGridFlags(CLI::App& app, const char* group, std::vector<ParameterAxis>& axes);

}  // namespace tributary
