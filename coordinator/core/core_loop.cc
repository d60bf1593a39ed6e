#include "coordinator/core/core_loop.h"

#include <utility>

namespace tributary {
namespace {

constexpr int64_t kTickNs = 100 * kNsPerMs;

}  // namespace

CoreLoop::CoreLoop(const CoordinatorConfig& config, const Clock* clock, Execute execute, Inspect on_tick)
    : clock_(clock),
      execute_(std::move(execute)),
      on_tick_(std::move(on_tick)),
      core_(config),
      next_tick_ns_(clock->NowNs() + kTickNs),
      idle_(clock),
      loop_(
          {}, &idle_, [this](Item& item) { Run(item); }, [this] { return TickIfDue(); }) {
  idle_.set_deadline_ns(next_tick_ns_);
  loop_.Start();
}

void CoreLoop::Post(Event event) { loop_.Post(std::move(event)); }
void CoreLoop::PostInspect(Inspect inspect) { loop_.Post(std::move(inspect)); }

void CoreLoop::Run(Item& item) {
  if (auto* inspect = std::get_if<Inspect>(&item)) {
    (*inspect)(core_);
  } else {
    Step(std::get<Event>(std::move(item)));
  }
}

void CoreLoop::Step(Event event) {
  for (Action& action : core_.Step(std::move(event), clock_->NowNs())) execute_(std::move(action));
}

int CoreLoop::TickIfDue() {
  if (clock_->NowNs() < next_tick_ns_) return 0;
  Step(event::Tick{});
  on_tick_(core_);
  next_tick_ns_ = clock_->NowNs() + kTickNs;
  idle_.set_deadline_ns(next_tick_ns_);
  return 1;
}

}  // namespace tributary
