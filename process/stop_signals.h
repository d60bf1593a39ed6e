// SIGTERM and SIGINT as a question that a server asks.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "base/mutex.h"

namespace tributary {

// The first signal asks to stop; the second ends the process at once, with exit code 1. One per process.
class StopSignals {
 public:
  StopSignals();

  // Thread-safe.
  bool requested() const;
  // Does what the first signal would do, without one: stops a process that has no reason to go on.
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
  mutable Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tributary
