// `tributary cluster up`: a local cluster until a signal ends it.
#pragma once

#include "absl/status/status.h"
#include "client/api/request_options.h"
#include "client/terminal/interrupt.h"

namespace tributary {

absl::Status ClusterUp(const ClusterOptions& options, Interrupt& stop);

}  // namespace tributary
