// Ctrl-C and SIGTERM as plain control flow: no code runs in a signal handler.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "base/mutex.h"

namespace tributary {

// Blocks SIGINT and SIGTERM for the whole process, and ignores SIGPIPE, so that a reader that has gone is an error of
// the write (client/terminal/output.h); construct it in main() before any thread starts.
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
  // Asked at each signal first, on another thread: true if it has dealt with it, which then does not count. {} removes
  // the filter.
  void SetFilter(std::function<bool(int signal)> filter);

 private:
  void WaitForSignals();

  std::atomic<bool> stop_requested_{false};
  std::atomic<bool> finished_{false};
  Mutex mutex_;
  std::function<void()> handler_ ABSL_GUARDED_BY(mutex_);
  std::function<bool(int signal)> filter_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

// While it lives, the first signal ends the process at once, with status 130: nothing has been started that would have
// to be stopped in order, and the main thread may be waiting for its input for ever.
class ExitOnSignal {
 public:
  // `stop` outlives it, and has no other handler meanwhile.
  explicit ExitOnSignal(Interrupt& stop);
  ~ExitOnSignal() { stop_.SetHandler({}); }
  ExitOnSignal(const ExitOnSignal&) = delete;
  ExitOnSignal& operator=(const ExitOnSignal&) = delete;

 private:
  Interrupt& stop_;
};

}  // namespace tributary
