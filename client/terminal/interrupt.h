// Ctrl-C and SIGTERM as plain control flow: no code runs in a signal handler.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "base/mutex.h"

namespace tributary {

// Blocks SIGINT and SIGTERM for the whole process; construct it in main() before any thread starts.
// A thread of its own waits for them: the first one sets stop_requested() and calls the handler,
// the second ends the process at once (its children die with it).
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool stop_requested() const { return stop_requested_.load(std::memory_order_acquire); }
  // Called on another thread at the first signal; at once if it has come already. {} removes the
  // handler.
  void SetHandler(std::function<void()> handler);

 private:
  void WaitForSignals();

  std::atomic<bool> stop_requested_{false};
  std::atomic<bool> finished_{false};
  Mutex mutex_;
  std::function<void()> handler_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace tributary
