// Rejects frames seen before: remembers the last 64 sequence numbers below the highest seen (RFC
// 4303, appendix A).
#pragma once

#include <cstdint>

namespace tributary {

class ReplayWindow {
 public:
  // True, and remembered, if `frame_seq` (from 1 on) is new; false if seen or older than the window
  // can tell.
  bool Accept(uint64_t frame_seq) {
    if (frame_seq == 0) return false;
    if (frame_seq > highest_) {
      const uint64_t shift = frame_seq - highest_;
      seen_ = shift >= 64 ? 0 : seen_ << shift;
      seen_ |= 1;
      highest_ = frame_seq;
      return true;
    }
    const uint64_t age = highest_ - frame_seq;
    if (age >= 64) return false;
    const uint64_t bit = uint64_t{1} << age;
    if ((seen_ & bit) != 0) return false;
    seen_ |= bit;
    return true;
  }

 private:
  uint64_t highest_ = 0;
  uint64_t seen_ = 0;
};

}  // namespace tributary
