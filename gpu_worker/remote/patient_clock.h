// Time that passes only while we listen. Silence of a node counts against it only if we polled
// meanwhile: after a long piece of our own work (or a SIGSTOP) nobody is declared dead for frames
// that we did not fetch.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace tributary {

class PatientClock {
 public:
  // Call after each poll. Returns the patient time, in ns from an arbitrary origin.
  int64_t Advance(int64_t now_ns) {
    if (last_ns_ != 0) patient_ns_ += std::clamp<int64_t>(now_ns - last_ns_, 0, kMaxGapNs);
    last_ns_ = now_ns;
    return patient_ns_;
  }
  int64_t now_ns() const { return patient_ns_; }

 private:
  static constexpr int64_t kMaxGapNs = 100 * kNsPerMs;
  int64_t last_ns_ = 0;
  int64_t patient_ns_ = 0;
};

}  // namespace tributary
