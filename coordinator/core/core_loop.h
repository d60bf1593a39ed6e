// The one thread that owns the coordinator's core: takes events from any thread, hands out actions, ticks.
#pragma once

#include <functional>
#include <variant>

#include "base/clock.h"
#include "coordinator/core/coordinator_core.h"
#include "process/loop/loop_idle.h"
#include "process/loop/owner_loop.h"

namespace tributary {

class CoreLoop {
 public:
  using Execute = std::function<void(Action&& action)>;
  using Inspect = std::function<void(const CoordinatorCore& core)>;

  // `execute` runs on the loop's thread, `on_tick` after every tick. The clock outlives the loop.
  CoreLoop(const CoordinatorConfig& config, const Clock* clock, Execute execute, Inspect on_tick);
  // Stops; what is still queued is dropped.
  ~CoreLoop() = default;

  // Thread-safe. Handled in the order of the calls.
  void Post(Event event);
  // `inspect` sees the core between two events. Thread-safe.
  void PostInspect(Inspect inspect);

 private:
  using Item = std::variant<Event, Inspect>;
  void Run(Item& item);
  void Step(Event event);
  int TickIfDue();

  const Clock* const clock_;
  const Execute execute_;
  const Inspect on_tick_;
  CoordinatorCore core_;  // of the thread only, as is next_tick_ns_
  int64_t next_tick_ns_ = 0;
  SleepIdle idle_;
  OwnerLoop<Item> loop_;
};

}  // namespace tributary
