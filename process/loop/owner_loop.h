// The one thread that owns a core: it runs what other threads post, in the order of the calls, gives the core its
// turns, and waits when there is nothing to do. The coordinator's core, the worker's engine and the node's server each
// live in one of these; what differs is how it waits (LoopIdle) and what a turn does.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "process/loop/loop_idle.h"

namespace tributary {

struct OwnerLoopOptions {
  size_t max_waiting = std::numeric_limits<size_t>::max();  // items; Post() refuses more
  bool one_item_per_turn = false;  // so that items and turns alternate and neither starves the other; else all
  bool run_rest_at_stop = false;   // what was posted before Stop() runs, and one more turn; else it is dropped
  int cpu = -1;                    // the core to pin the thread to, best effort; -1: none
};

// Thread-safe, but for Start() and Stop(): one thread calls those.
template <typename Item>
class OwnerLoop {
 public:
  using RunItem = std::function<void(Item& item)>;
  // One piece of the core's own work; the number of events it handled (0: there was nothing to do).
  using Turn = std::function<int()>;

  // `run_item` and `turn` run on the loop's thread. `idle` outlives the loop.
  OwnerLoop(const OwnerLoopOptions& options, LoopIdle* idle, RunItem run_item, Turn turn)
      : options_(options), idle_(idle), run_item_(std::move(run_item)), turn_(std::move(turn)) {}
  ~OwnerLoop() { Stop(); }
  OwnerLoop(const OwnerLoop&) = delete;
  OwnerLoop& operator=(const OwnerLoop&) = delete;

  void Start() {
    TRIBUTARY_CHECK(!thread_.joinable());
    thread_ = std::thread([this] { ThreadMain(); });
  }
  // Ends the thread after the item or turn that runs. Later items are refused.
  void Stop() {
    {
      MutexLock lock(&mutex_);
      accepting_ = false;
    }
    stopping_.store(true, std::memory_order_release);
    idle_->Wake();
    if (thread_.joinable()) thread_.join();
  }

  // False, and the item never runs, if too many wait or the loop has been stopped. Before Start(), items wait.
  bool Post(Item item) {
    {
      MutexLock lock(&mutex_);
      if (!accepting_ || items_.size() >= options_.max_waiting) return false;
      items_.push_back(std::move(item));
      has_items_.store(true, std::memory_order_release);
    }
    idle_->Wake();
    return true;
  }
  // Drops what waits and posts `item` in its place. Never refused before Stop().
  void PostInstead(Item item) {
    {
      MutexLock lock(&mutex_);
      if (!accepting_) return;
      items_.clear();
      items_.push_back(std::move(item));
      has_items_.store(true, std::memory_order_release);
    }
    idle_->Wake();
  }
  // True while an item waits or runs.
  bool has_items() const {
    MutexLock lock(&mutex_);
    return running_item_ || !items_.empty();
  }

 private:
  void ThreadMain() {
    if (options_.cpu >= 0) PinThisThread(options_.cpu);
    while (!stopping_.load(std::memory_order_acquire)) {
      const int num_items = RunItems();
      idle_->AfterTurn(num_items + turn_());
    }
    if (!options_.run_rest_at_stop) return;
    while (RunItems() > 0) {
    }
    turn_();
  }

  int RunItems() {
    if (!has_items_.load(std::memory_order_acquire)) return 0;
    {
      MutexLock lock(&mutex_);
      if (options_.one_item_per_turn) {
        taken_.push_back(std::move(items_.front()));
        items_.pop_front();
      } else {
        taken_.swap(items_);
      }
      if (items_.empty()) has_items_.store(false, std::memory_order_relaxed);
      running_item_ = true;
    }
    for (Item& item : taken_) run_item_(item);
    const int count = static_cast<int>(taken_.size());
    taken_.clear();
    MutexLock lock(&mutex_);
    running_item_ = false;
    return count;
  }

  const OwnerLoopOptions options_;
  LoopIdle* const idle_;
  const RunItem run_item_;
  const Turn turn_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> has_items_{false};  // so that a turn without items takes no lock
  std::deque<Item> taken_;              // of the thread
  mutable Mutex mutex_;
  bool accepting_ ABSL_GUARDED_BY(mutex_) = true;
  std::deque<Item> items_ ABSL_GUARDED_BY(mutex_);
  bool running_item_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace tributary
