#include "coordinator/core/core_loop.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace tributary {
namespace {

constexpr int64_t kTickNs = 100 * kNsPerMs;

}  // namespace

CoreLoop::CoreLoop(const CoordinatorConfig& config, const Clock* clock, Execute execute, Inspect on_tick)
    : clock_(clock), execute_(std::move(execute)), on_tick_(std::move(on_tick)), core_(config), thread_([this] {
        ThreadMain();
      }) {}

CoreLoop::~CoreLoop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
  }
  thread_.join();
}

void CoreLoop::Post(Event event) { Add(std::move(event)); }
void CoreLoop::PostInspect(Inspect inspect) { Add(std::move(inspect)); }

void CoreLoop::Add(Item item) {
  std::lock_guard lock(mutex_);
  queue_.push_back(std::move(item));
  wake_.notify_one();
}

void CoreLoop::ThreadMain() {
  int64_t next_tick_ns = clock_->NowNs() + kTickNs;
  std::deque<Item> items;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      const int64_t wait_ns = std::max<int64_t>(0, next_tick_ns - clock_->NowNs());
      wake_.wait_for(lock, std::chrono::nanoseconds(wait_ns), [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      items.swap(queue_);
    }
    if (clock_->NowNs() >= next_tick_ns) {
      items.push_back(Event(event::Tick{}));
      items.push_back(on_tick_);
      next_tick_ns = clock_->NowNs() + kTickNs;
    }
    for (Item& item : items) {
      if (auto* inspect = std::get_if<Inspect>(&item)) {
        (*inspect)(core_);
        continue;
      }
      for (Action& action : core_.Step(std::get<Event>(std::move(item)), clock_->NowNs())) {
        execute_(std::move(action));
      }
    }
    items.clear();
  }
}

}  // namespace tributary
