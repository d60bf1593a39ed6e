// What a polling loop does when there is nothing to do: spin briefly, then sleep on the data
// plane's event.
//
//   IdleStrategy idle(options, &clock);
//   while (!stopping) idle.AfterPoll(server.Poll(), plane);
//
// Spinning is worth its core only if the next event comes within the spin. The strategy expects the
// next gap to be like the last ones: a gap longer than `spin_ns` halves the spin (down to a
// sixteenth), one within it restores it. So an idle process that answers a heartbeat now and then
// sleeps nearly all the time, and a busy one reacts within a microsecond.
//
// It never yields the core: on a busy host sched_yield() gives away whole time slices of milliseconds, while a sleeper
// is woken by its event and runs at once (bulk frames over shared memory were far slower with yields).
//
// Thread-compatible: it belongs to the loop's thread.
#pragma once

#include <cstdint>

#include "base/clock.h"
#include "transport/data_plane.h"

namespace tributary {

struct IdleOptions {
  int64_t spin_ns = 50 * kNsPerUs;  // after the last event; 0 = sleep at once
  int64_t sleep_ns = 1 * kNsPerMs;  // longest sleep in one go
};

class IdleStrategy {
 public:
  // `clock` outlives the strategy.
  IdleStrategy(const IdleOptions& options, const Clock* clock);

  // Call after each Poll() with the number of events it handled, those of other sources of work
  // included. Returns at once if there were any; else pauses, yields or sleeps in
  // plane.WaitForEvent().
  void AfterPoll(int num_events, DataPlane& plane);

  int64_t spin_limit_ns() const { return spin_limit_ns_; }
  uint64_t num_sleeps() const { return num_sleeps_; }

 private:
  const IdleOptions options_;
  const Clock* const clock_;
  int64_t spin_limit_ns_;
  int64_t last_event_ns_;
  uint64_t num_sleeps_ = 0;
};

}  // namespace tributary
