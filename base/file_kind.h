// Whether a path is a file that can be read to its end: a pipe, a device or a socket where a file is expected is
// refused by name instead of being waited for.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tributary {

// "a folder", "a named pipe", "a socket", "a device"; "" for a regular file. `mode`: st_mode of stat().
std::string_view FileKindName(mode_t mode);

// OK for a regular file, through symbolic links, and if nothing is there: whoever opens it says so. INVALID_ARGUMENT
// with path and kind for anything else.
absl::Status CheckRegularFile(const std::string& path);

// The same, but pipes and terminals are fine, too: somebody writes into them (`<(...)` of a shell, /dev/stdin).
absl::Status CheckFileOrPipe(const std::string& path);

}  // namespace tributary
