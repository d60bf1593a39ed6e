// Tells whoever started a server where it listens.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tributary {

// Writes {"listen": ..., "metrics": ...} so that a reader sees the whole file or none. UNAVAILABLE with path and
// reason.
absl::Status WritePortFile(const std::string& path, const std::string& listen_address,
                           const std::string& metrics_address);

}  // namespace tributary
