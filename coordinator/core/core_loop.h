// The one thread that owns the coordinator's core: takes events from any thread, hands out actions, ticks.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <variant>
#include <vector>

#include "base/clock.h"
#include "coordinator/core/coordinator_core.h"

namespace tributary {

class CoreLoop {
 public:
  using Execute = std::function<void(Action&& action)>;
  using Inspect = std::function<void(const CoordinatorCore& core)>;

  // `execute` runs on the loop's thread, `on_tick` after every tick. The clock outlives the loop.
  CoreLoop(const CoordinatorConfig& config, const Clock* clock, Execute execute, Inspect on_tick);
  // Stops; what is still queued is dropped.
  ~CoreLoop();

  // Thread-safe. Handled in the order of the calls.
  void Post(Event event);
  // `inspect` sees the core between two events. Thread-safe.
  void PostInspect(Inspect inspect);

 private:
  using Item = std::variant<Event, Inspect>;
  void Add(Item item);
  void ThreadMain();

  const Clock* const clock_;
  const Execute execute_;
  const Inspect on_tick_;
  CoordinatorCore core_;  // of the thread only
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item> queue_;  // guarded by mutex_
  bool stopping_ = false;   // guarded by mutex_
  std::thread thread_;
};

}  // namespace tributary
