// `tributary serve`: the server for OpenAI's clients, which is a program of the Python package.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tributary {

// Becomes tributary-serve, the one beside this program or else that of PATH, which gets the arguments and ends with its
// own exit status. Returns only if it could not be started: UNAVAILABLE says how it is installed.
absl::Status BecomeServe(const std::vector<std::string>& arguments);

}  // namespace tributary
