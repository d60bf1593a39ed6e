// Writing a file so that readers never see half of it, and that nothing is lost without a word.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tributary {

// Replaces the file by `text`: written beside it, handed to the disk, renamed. A symbolic link stays, and its target is
// replaced; what is no regular file (a device, a pipe, /dev/stdout) is written into. UNAVAILABLE with path and reason,
// "No space left on device" for one; what was there before is then still there.
absl::Status WriteWholeFile(const std::string& path, std::string_view text);

// Whether WriteWholeFile() could begin now: asked before work that takes hours. UNAVAILABLE with path and reason.
absl::Status CheckWritable(const std::string& path);

}  // namespace tributary
