// The commands of the CLI. Each returns the process's exit code: 0 done, 1 failed (one line on
// stderr says why).
#pragma once

#include "client/cli/options.h"
#include "client/terminal/interrupt.h"

namespace tributary {

inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;
inline constexpr int kExitUsage = 2;

int RunCommandLine(const Command& command, Interrupt& stop);

}  // namespace tributary
