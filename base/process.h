// What every server process does at its edges: say where it listens, and stop when it is told to.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"

namespace tributary {

// Writes {"listen": ..., "metrics": ...} so that a reader sees the whole file or none. UNAVAILABLE with path and
// reason.
absl::Status WritePortFile(const std::string& path, const std::string& listen_address,
                           const std::string& metrics_address);

// A new random number for this start of the process, never 0: who answers under a known name is not who answered
// before.
uint64_t RandomIncarnation();

// SIGTERM and SIGINT. The first one asks to stop; the second ends the process at once, with exit code 1.
// One per process.
class StopSignals {
 public:
  StopSignals();

  // Thread-safe.
  bool requested() const;
  // As the first signal would, without one: stops a process that has no reason to go on.
  void Request();
  // Waits for the first signal. False if `timeout_ns` passed without one; negative waits for ever.
  bool Wait(int64_t timeout_ns = -1);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Why this process cannot go on, e.g. because the coordinator refused it for good. Thread-safe.
class Refusal {
 public:
  // `stop` outlives this; Set() asks it to stop.
  explicit Refusal(StopSignals* stop) : stop_(stop) {}
  void Set(const absl::Status& status);
  absl::Status Get() const;

 private:
  StopSignals* const stop_;
  mutable std::mutex mutex_;
  absl::Status status_;
};

}  // namespace tributary
