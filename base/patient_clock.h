// Time that passes only while we look. Silence of a peer counts against it only if we looked meanwhile: after a long
// piece of our own work, a SIGSTOP or a live migration nobody is judged by what we did not fetch.
//
// Thread-compatible.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace tributary {

class PatientClock {
 public:
  // Of the time between two looks, at most max_gap_ns counts.
  explicit PatientClock(int64_t max_gap_ns = 100 * kNsPerMs) : max_gap_ns_(max_gap_ns) {}

  // Call at each look. Returns the patient time, in ns from an arbitrary origin.
  int64_t Advance(int64_t now_ns) {
    if (last_ns_ != 0) patient_ns_ += std::clamp<int64_t>(now_ns - last_ns_, 0, max_gap_ns_);
    last_ns_ = now_ns;
    return patient_ns_;
  }
  int64_t now_ns() const { return patient_ns_; }

 private:
  int64_t max_gap_ns_;
  int64_t last_ns_ = 0;
  int64_t patient_ns_ = 0;
};

}  // namespace tributary
