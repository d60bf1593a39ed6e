// Reads files that hold something secret.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"

namespace tributary {

// The bytes of a regular file (symbolic links are followed) of at most `max_bytes`. `what` names it in errors, e.g.
// "--tls-key". INVALID_ARGUMENT, with the path and what to do: it is not there or cannot be read, it is no regular
// file, empty or too long; with `is_secret`, others than its owner and group may read it, or others than its owner
// write it.
absl::StatusOr<std::string> ReadSecurityFile(const std::string& what, const std::string& path, bool is_secret,
                                             size_t max_bytes);

}  // namespace tributary
