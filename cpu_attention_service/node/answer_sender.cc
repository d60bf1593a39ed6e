#include "cpu_attention_service/node/answer_sender.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "fmt/format.h"

namespace tributary {

absl::StatusOr<AnswerBuffer> AnswerSender::Allocate(size_t payload_bytes) {
  AnswerBuffer answer;
  absl::StatusOr<FrameBuffer> frame = data_plane_->AllocateFrame(payload_bytes);
  if (frame.ok()) {
    answer.frame_ = *std::move(frame);
    return answer;
  }
  if (!absl::IsResourceExhausted(frame.status())) return frame.status();
  if (waiting_.size() >= kMaxWaiting || waiting_bytes_ + payload_bytes > kMaxWaitingBytes) {
    return absl::ResourceExhaustedError(
        fmt::format("{} answers of {} bytes already wait for a send buffer", waiting_.size(), waiting_bytes_));
  }
  answer.waiting_ = AlignedBuffer<std::byte>(payload_bytes);
  return answer;
}

void AnswerSender::Send(Session& session, const FrameHeader& received, FrameType type, AnswerBuffer answer) {
  FrameHeader header;
  header.type = static_cast<uint8_t>(type);
  header.session_id = session.id.value;
  header.step_id = received.step_id;
  header.layer = received.layer;
  header.slot = received.slot;
  if (answer.frame_) {
    SealAndSend(session, header, std::move(answer.frame_));
  } else {
    waiting_bytes_ += answer.waiting_.size();
    waiting_.push_back({session.id, header, std::move(answer.waiting_)});
  }
}

void AnswerSender::SealAndSend(Session& session, const FrameHeader& header, FrameBuffer frame) {
  frame.header() = header;
  frame.header().frame_seq = session.next_frame_seq++;
  session.outgoing.Seal(frame.header(), frame.payload());
  const absl::Status status = data_plane_->Send(session.peer, std::move(frame), SendClass::kEager);
  // A peer that is gone shows as OnPeerError as well, which ends the session.
  if (!status.ok()) LOG_DEBUG("answer to {} not sent: {}", session.worker.id, status.ToString());
}

int AnswerSender::Flush() {
  int num_sent = 0;
  while (!waiting_.empty()) {
    Waiting& first = waiting_.front();
    if (Session* session = sessions_->Find(first.session); session != nullptr) {
      absl::StatusOr<FrameBuffer> frame = data_plane_->AllocateFrame(first.payload.size());
      if (!frame.ok()) return num_sent;
      std::copy(first.payload.span().begin(), first.payload.span().end(), frame->payload().begin());
      SealAndSend(*session, first.header, *std::move(frame));
      ++num_sent;
    }
    waiting_bytes_ -= first.payload.size();
    waiting_.pop_front();
  }
  return num_sent;
}

}  // namespace tributary
