// A FrameHandler that remembers, and short cuts for sending numbered frames.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/testutil/test_seed.h"
#include "transport/data_plane.h"

namespace tributary {

struct ReceivedFrame {
  std::string header;
  std::string payload;

  uint64_t seq() const {
    FrameHeader decoded;
    std::memcpy(&decoded, header.data(), sizeof(decoded));
    return decoded.frame_seq;
  }
  friend bool operator==(const ReceivedFrame&, const ReceivedFrame&) = default;
};

class RecordingHandler : public FrameHandler {
 public:
  void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) override {
    frames.push_back({std::string(reinterpret_cast<const char*>(header.data()), header.size()),
                      std::string(reinterpret_cast<const char*>(payload.data()), payload.size())});
  }
  void OnPeerError(PeerId peer, const absl::Status& status) override { errors.emplace_back(peer, status); }
  std::vector<uint64_t> seqs() const {
    std::vector<uint64_t> seqs;
    for (const auto& frame : frames) seqs.push_back(frame.seq());
    return seqs;
  }

  std::vector<ReceivedFrame> frames;
  std::vector<std::pair<PeerId, absl::Status>> errors;
};

// A frame whose payload repeats the low byte of `seq`.
inline absl::StatusOr<FrameBuffer> NumberedFrame(DataPlane& plane, uint64_t seq, size_t payload_bytes = 8) {
  absl::StatusOr<FrameBuffer> frame = plane.AllocateFrame(payload_bytes);
  if (!frame.ok()) return frame;
  frame->header().frame_seq = seq;
  frame->header().payload_bytes = static_cast<uint32_t>(payload_bytes);
  std::memset(frame->payload().data(), static_cast<int>(seq & 0xff), payload_bytes);
  return frame;
}

inline absl::Status SendNumbered(DataPlane& plane, PeerId peer, uint64_t seq, size_t payload_bytes = 8) {
  absl::StatusOr<FrameBuffer> frame = NumberedFrame(plane, seq, payload_bytes);
  if (!frame.ok()) return frame.status();
  return plane.Send(peer, *std::move(frame), SendClass::kEager);
}

}  // namespace tributary
