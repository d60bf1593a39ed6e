// `tributary demo`: a script that needs nothing but Python's standard library and this build's programs.
#pragma once

#include "absl/status/status.h"

namespace tributary {

// True if the first argument is `demo`.
bool IsDemoCommand(int argc, const char* const* argv);

// Becomes the demo (libexec/tributary/demo.py beside the folder of this program), which gets the arguments behind
// `demo` and ends with its own exit status. Returns only if it could not be started: UNAVAILABLE says why.
absl::Status BecomeDemo(int argc, const char* const* argv);

}  // namespace tributary
