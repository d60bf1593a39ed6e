// Received frames that wait for the attention step in work. The frame's memory is the data plane's only until its
// handler returns, so the payload is copied.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "wire/frame.h"

namespace tributary {

struct QueuedFrame {
  SessionId session;
  FrameHeader header;
  int64_t received_ns = 0;
  std::vector<std::byte> payload;
};

// First in, first out. Reuses payload memory: in steady state nothing is allocated. Thread-compatible.
class FrameQueue {
 public:
  void Push(SessionId session, const FrameHeader& header, std::span<const std::byte> payload, int64_t received_ns) {
    QueuedFrame frame{session, header, received_ns, {}};
    if (!spare_.empty()) {
      frame.payload = std::move(spare_.back());
      spare_.pop_back();
    }
    frame.payload.assign(payload.begin(), payload.end());
    bytes_ += payload.size();
    frames_.push_back(std::move(frame));
  }
  // REQUIRES: size() > 0.
  QueuedFrame Pop() {
    QueuedFrame frame = std::move(frames_.front());
    frames_.pop_front();
    bytes_ -= frame.payload.size();
    return frame;
  }
  // Takes back the memory of a frame that is done with.
  void Recycle(QueuedFrame frame) {
    if (spare_.size() < kMaxSpare) spare_.push_back(std::move(frame.payload));
  }

  size_t size() const { return frames_.size(); }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kMaxSpare = 4;
  std::deque<QueuedFrame> frames_;
  std::vector<std::vector<std::byte>> spare_;
  size_t bytes_ = 0;
};

}  // namespace tributary
