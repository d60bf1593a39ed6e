// Keeps repeated log lines rare.
#pragma once

#include <cstdint>
#include <optional>

#include "base/mutex.h"

namespace tributary {

// Lets `burst` events through in each interval and counts the others. Thread-safe.
class RateLimit {
 public:
  explicit RateLimit(int64_t interval_ns, uint32_t burst = 1) : interval_ns_(interval_ns), burst_(burst) {}

  // Whether an event may pass now; if so, how many were held back since the last one that passed.
  std::optional<uint64_t> Admit(int64_t now_ns) {
    MutexLock lock(&mutex_);
    if (begin_ns_ == 0 || now_ns - begin_ns_ >= interval_ns_) {
      begin_ns_ = now_ns;
      passed_ = 0;
    }
    if (passed_ == burst_) {
      ++held_back_;
      return std::nullopt;
    }
    ++passed_;
    const uint64_t held_back = held_back_;
    held_back_ = 0;
    return held_back;
  }

 private:
  const int64_t interval_ns_;
  const uint32_t burst_;
  Mutex mutex_;
  int64_t begin_ns_ ABSL_GUARDED_BY(mutex_) = 0;  // of the interval; 0: none yet
  uint32_t passed_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t held_back_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tributary
