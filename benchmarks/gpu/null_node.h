// A CPU attention node that attends over nothing: it answers every query at once with empty partials that claim to
// cover what was asked for, and acknowledges every spill. What is left is the exchange.
#pragma once

#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "base/siphash.h"
#include "transport/data_plane.h"
#include "wire/frame_builder.h"
#include "wire/frame_seal.h"

namespace tributary {

class NullNode final : public FrameHandler {
 public:
  // `number` tells the nodes of one worker apart.
  NullNode(DataPlane* plane, uint64_t number) : plane_(plane), session_id_(number), key_{number, ~number} {}

  // The worker's address. From then on it is answered, within Poll().
  absl::Status Connect(std::string_view worker_address);
  int Poll() { return plane_->Poll(*this); }

  uint64_t session_id() const { return session_id_; }
  const SipKey& key() const { return key_; }

  void OnFrame(std::span<const std::byte> header_bytes, std::span<const std::byte> payload) override;
  void OnPeerError(PeerId, const absl::Status&) override {}

 private:
  void AnswerQuery(const FrameHeader& header, std::span<const std::byte> payload);
  void AnswerSpill(const FrameHeader& header, std::span<const std::byte> payload);
  void AnswerHeartbeat(const FrameHeader& header, std::span<const std::byte> payload);
  void Send(const FrameHeader& received, FrameType type, FrameBuffer frame);

  DataPlane* const plane_;
  const uint64_t session_id_;
  const SipKey key_;
  PeerId peer_;
  uint64_t next_frame_seq_ = 1;
  absl::flat_hash_map<uint64_t, uint32_t> num_kv_heads_;  // by shard, from its spills
  std::vector<PartialEntry> entries_;
};

}  // namespace tributary
