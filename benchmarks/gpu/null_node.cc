#include "benchmarks/gpu/null_node.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"

namespace tributary {

absl::Status NullNode::Connect(std::string_view worker_address) {
  TRIBUTARY_ASSIGN_OR_RETURN(peer_, plane_->Connect(worker_address));
  return absl::OkStatus();
}

void NullNode::OnFrame(std::span<const std::byte> header_bytes, std::span<const std::byte> payload) {
  FrameHeader header;
  TRIBUTARY_CHECK(DecodeHeader(header_bytes, payload.size(), &header) == FrameError::kOk);
  TRIBUTARY_CHECK(header.session_id == session_id_);
  TRIBUTARY_CHECK(VerifyHeader(key_, header) && VerifyPayload(header, payload));
  switch (static_cast<FrameType>(header.type)) {
    case FrameType::kQuery:
      return AnswerQuery(header, payload);
    case FrameType::kSpill:
      return AnswerSpill(header, payload);
    case FrameType::kHeartbeat:
      return AnswerHeartbeat(header, payload);
    default:
      return;
  }
}

void NullNode::AnswerQuery(const FrameHeader& header, std::span<const std::byte> payload) {
  QueryView query;
  TRIBUTARY_CHECK(QueryView::Decode(payload, &query) == FrameError::kOk);
  entries_.clear();
  for (uint32_t i = 0; i < query.body().num_entries; ++i) {
    const QueryEntry entry = query.entry(i);
    const uint64_t tokens = entry.visible_end - entry.visible_begin;
    const uint32_t num_kv_heads = num_kv_heads_.at(entry.shard_id);
    entries_.push_back({.shard_id = entry.shard_id,
                        .num_q_heads = entry.num_q_heads,
                        .covered_tokens = tokens,
                        .attended_head_tokens = tokens * num_kv_heads,
                        .n_q = entry.n_q,
                        .num_kv_heads = num_kv_heads});
  }
  const uint32_t head_dim = query.body().head_dim;
  auto frame = plane_->AllocateFrame(PartialPayloadBytes(entries_, head_dim));
  TRIBUTARY_CHECK(frame.ok());
  PartialPayloadWriter writer(frame->payload(), query.body().num_entries, head_dim);
  for (const PartialEntry& entry : entries_) {
    const AttentionPartialView partial = writer.Add(entry);
    std::fill(partial.out.begin(), partial.out.end(), 0.0f);
    std::fill(partial.lse_ln.begin(), partial.lse_ln.end(), -1e4f);  // weighs nothing
  }
  Send(header, FrameType::kPartial, *std::move(frame));
}

void NullNode::AnswerSpill(const FrameHeader& header, std::span<const std::byte> payload) {
  SpillView spill;
  TRIBUTARY_CHECK(SpillView::Decode(payload, &spill) == FrameError::kOk);
  num_kv_heads_[spill.body().shard_id] = spill.body().num_kv_heads;
  auto frame = plane_->AllocateFrame(kAckPayloadBytes);
  TRIBUTARY_CHECK(frame.ok());
  WriteAck({.shard_id = spill.body().shard_id,
            .token_begin = spill.body().token_begin,
            .num_tokens = spill.body().num_tokens},
           frame->payload());
  Send(header, FrameType::kAck, *std::move(frame));
}

void NullNode::AnswerHeartbeat(const FrameHeader& header, std::span<const std::byte> payload) {
  HeartbeatBody heartbeat;
  if (DecodeHeartbeat(payload, &heartbeat) != FrameError::kOk || heartbeat.is_reply != 0) return;
  heartbeat.is_reply = 1;
  auto frame = plane_->AllocateFrame(kHeartbeatPayloadBytes);
  TRIBUTARY_CHECK(frame.ok());
  WriteHeartbeat(heartbeat, frame->payload());
  Send(header, FrameType::kHeartbeat, *std::move(frame));
}

void NullNode::Send(const FrameHeader& received, FrameType type, FrameBuffer frame) {
  FrameHeader& header = frame.header();
  header = received;
  header.type = static_cast<uint8_t>(type);
  header.frame_seq = next_frame_seq_++;
  SealFrame(key_, header, frame.payload());
  (void)plane_->Send(peer_, std::move(frame), SendClass::kEager);  // a dead worker asks no more
}

}  // namespace tributary
