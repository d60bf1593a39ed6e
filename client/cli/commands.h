// The commands of the CLI. Each returns the process's exit code: 0 done, 1 failed (one line on stderr says why; with
// --json one object on standard output, too), 141 if the reader of standard output went away (as shells show SIGPIPE).
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/options.h"
#include "client/terminal/interrupt.h"

namespace tributary {

inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitReaderGone = 141;

// Says what went wrong; returns kExitError.
int Fail(const absl::Status& status, bool as_json);
// The same for words that are no command; returns kExitUsage. As JSON, too, if --json without a value is among them.
int FailUsage(const absl::Status& status, const std::vector<std::string>& words);
int RunCommandLine(Command command, Interrupt& stop);

}  // namespace tributary
