// Sends a node's answers: seals them for their session, and keeps those for which the data plane
// has no buffer just now.
#pragma once

#include <cstdint>
#include <deque>
#include <span>

#include "absl/status/status.h"
#include "base/aligned_buffer.h"
#include "cpu_attention_service/node/session_table.h"
#include "transport/data_plane.h"
#include "wire/frame.h"

namespace tributary {

// Room for one answer's payload: the data plane's own memory, or, when that is used up, a copy that
// waits.
class AnswerBuffer {
 public:
  // Starts at a multiple of 8.
  std::span<std::byte> payload() { return frame_ ? frame_.payload() : waiting_.span(); }

 private:
  friend class AnswerSender;
  FrameBuffer frame_;
  AlignedBuffer<std::byte> waiting_;
};

// Thread-compatible.
class AnswerSender {
 public:
  static constexpr size_t kMaxWaiting = 1024;
  static constexpr size_t kMaxWaitingBytes = 64u << 20;

  // Both outlive the sender.
  AnswerSender(DataPlane* data_plane, SessionTable* sessions) : data_plane_(data_plane), sessions_(sessions) {}

  // RESOURCE_EXHAUSTED when the data plane has no buffer and too much waits already;
  // INVALID_ARGUMENT beyond limits::kMaxFramePayloadBytes.
  absl::StatusOr<AnswerBuffer> Allocate(size_t payload_bytes);
  // Sends, or keeps, the answer of this type to `received`, whose step, layer and slot it repeats.
  void Send(Session& session, const FrameHeader& received, FrameType type, AnswerBuffer answer);
  // Sends what waits, as far as there are buffers. Returns how many.
  int Flush();

  size_t num_waiting() const { return waiting_.size(); }

 private:
  struct Waiting {
    SessionId session;
    FrameHeader header;
    AlignedBuffer<std::byte> payload;
  };
  void SealAndSend(Session& session, const FrameHeader& header, FrameBuffer frame);

  DataPlane* const data_plane_;
  SessionTable* const sessions_;
  std::deque<Waiting> waiting_;
  size_t waiting_bytes_ = 0;
};

}  // namespace tributary
