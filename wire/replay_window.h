// Rejects frames seen before: one bit for each of the last kWindowFrames sequence numbers, in a ring of words (the
// scheme of RFC 6479).
//
// The window is wide because frames of one session overtake each other: a spill goes by rendezvous and may arrive after
// thousands of small queries that were sent later. A frame that is older than the window is refused like a replayed
// one.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace tributary {

class ReplayWindow {
 public:
  // One word of the ring is always partly ahead of the highest number seen.
  static constexpr uint64_t kWords = 64;
  static constexpr uint64_t kWindowFrames = (kWords - 1) * 64;

  // True, and remembered, if `frame_seq` (from 1 on) is new; false if seen or older than the window
  // can tell.
  bool Accept(uint64_t frame_seq) {
    if (frame_seq == 0) return false;
    if (frame_seq > highest_) {
      // The words between the old and the new highest number are of numbers not seen yet.
      const uint64_t old_word = highest_ / 64;
      const uint64_t num_new = std::min(frame_seq / 64 - old_word, kWords);
      for (uint64_t i = 1; i <= num_new; ++i) seen_[(old_word + i) % kWords] = 0;
      highest_ = frame_seq;
    } else if (highest_ - frame_seq >= kWindowFrames) {
      return false;
    }
    uint64_t& word = seen_[frame_seq / 64 % kWords];
    const uint64_t bit = uint64_t{1} << (frame_seq % 64);
    if ((word & bit) != 0) return false;
    word |= bit;
    return true;
  }

 private:
  uint64_t highest_ = 0;
  std::array<uint64_t, kWords> seen_{};
};

}  // namespace tributary
