// What a loop does when it has nothing to do: two ways to wait, for owner_loop.h.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "base/mutex.h"
#include "transport/data_plane.h"
#include "transport/idle_strategy.h"

namespace tributary {

class LoopIdle {
 public:
  virtual ~LoopIdle() = default;
  // Called after each turn, on the loop's thread, with the number of events that the turn handled. Returns at once if
  // there were any; else it may wait, until Wake() at the latest.
  virtual void AfterTurn(int num_events) = 0;
  // Ends a wait, or the next one. Thread-safe.
  virtual void Wake() = 0;
};

// Spins on a data plane, then sleeps on its event (IdleStrategy): for loops that answer within microseconds.
class DataPlaneIdle final : public LoopIdle {
 public:
  // Both outlive this.
  DataPlaneIdle(DataPlane* plane, const Clock* clock, const IdleOptions& options = {})
      : plane_(plane), strategy_(options, clock) {}

  void AfterTurn(int num_events) override { strategy_.AfterPoll(num_events, *plane_); }
  void Wake() override { plane_->Wake(); }

 private:
  DataPlane* const plane_;
  IdleStrategy strategy_;
};

// Sleeps until Wake() or a deadline: for loops that react to posted work and to time.
class SleepIdle final : public LoopIdle {
 public:
  // `clock` (a real one) outlives this.
  explicit SleepIdle(const Clock* clock) : clock_(clock) {}

  // The end of the waits to come. Of the loop's thread.
  void set_deadline_ns(int64_t deadline_ns) { deadline_ns_ = deadline_ns; }

  void AfterTurn(int num_events) override;
  void Wake() override;

 private:
  const Clock* const clock_;
  int64_t deadline_ns_ = 0;
  Mutex mutex_;
  CondVar changed_;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tributary
