// What every server process does at its edges: say where it listens, and stop when it is told to.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"

namespace tributary {

// Writes {"listen": ..., "metrics": ...} so that a reader sees the whole file or none. UNAVAILABLE with path and reason.
absl::Status WritePortFile(const std::string& path, const std::string& listen_address,
                           const std::string& metrics_address);

// SIGTERM and SIGINT. The first one asks to stop; the second ends the process at once, with exit code 1.
// One per process.
class StopSignals {
 public:
  StopSignals();

  // Thread-safe.
  bool requested() const;
  // Waits for the first signal. False if `timeout_ns` passed without one; negative waits for ever.
  bool Wait(int64_t timeout_ns = -1);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace tributary
