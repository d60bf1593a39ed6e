// The only source of time. Cores take `now_ns` as an argument or a Clock&, so that tests own time.
#pragma once

#include <chrono>
#include <cstdint>

namespace tributary {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic nanoseconds from an arbitrary origin.
  virtual int64_t NowNs() const = 0;
};

// Thread-safe.
class RealClock final : public Clock {
 public:
  int64_t NowNs() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

// Time under a test's control. Not thread-safe.
class ManualClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_; }
  void AdvanceNs(int64_t ns) { now_ns_ += ns; }

 private:
  int64_t now_ns_ = 1;
};

inline constexpr int64_t kNsPerUs = 1'000;
inline constexpr int64_t kNsPerMs = 1'000'000;
inline constexpr int64_t kNsPerS = 1'000'000'000;
inline double SecondsFromNs(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

}  // namespace tributary
