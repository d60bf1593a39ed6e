// The only translation of UCX's status codes.
#pragma once

#include <ucs/type/status.h>

#include <string_view>

#include "absl/status/status.h"

namespace tributary {

// OK for UCS_OK and UCS_INPROGRESS; else a code by which callers decide (UNAVAILABLE: the peer is
// gone or cannot be reached, connect again) and the message "<what>: <UCX's text>".
absl::Status StatusFromUcx(ucs_status_t status, std::string_view what);

}  // namespace tributary
