#include "transport/idle_strategy.h"

#include <algorithm>

#include "base/cpu_relax.h"

namespace tributary {
namespace {

constexpr int64_t kMinSpinShare = 16;

}  // namespace

IdleStrategy::IdleStrategy(const IdleOptions& options, const Clock* clock)
    : options_(options), clock_(clock), spin_limit_ns_(options.spin_ns), last_event_ns_(clock->NowNs()) {}

void IdleStrategy::AfterPoll(int num_events, DataPlane& plane) {
  const int64_t now_ns = clock_->NowNs();
  const int64_t gap_ns = now_ns - last_event_ns_;
  if (num_events > 0) {
    spin_limit_ns_ =
        gap_ns <= options_.spin_ns ? options_.spin_ns : std::max(spin_limit_ns_ / 2, options_.spin_ns / kMinSpinShare);
    last_event_ns_ = now_ns;
    return;
  }
  if (gap_ns >= spin_limit_ns_) {
    ++num_sleeps_;
    plane.WaitForEvent(options_.sleep_ns);
  } else {
    CpuRelax();
  }
}

}  // namespace tributary
