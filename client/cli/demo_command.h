// `tributary demo`: a script that needs nothing but Python's standard library and this build's programs.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tributary {

// Becomes the demo (libexec/tributary/demo.py beside the folder of this program), which gets the arguments and ends
// with its own exit status. Returns only if it could not be started: UNAVAILABLE says why.
absl::Status BecomeDemo(const std::vector<std::string>& arguments);

}  // namespace tributary
