#include "gpu_worker/spill/spill.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "fmt/format.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "wire/frame_builder.h"

namespace tributary {

SpillSender::~SpillSender() {
  for (const Filling& filling : filling_) {
    while (!device_->CopyDone(filling.ticket)) {
    }
  }
}

uint64_t SpillSender::TokenBytes(const BoundShard& shard) {
  return uint64_t{shard.spec.num_kv_heads_held()} * shard.spec.model.head_dim * 2 * DTypeBytes(shard.exchange_dtype);
}

bool SpillSender::Fits(NodeIdx node, uint64_t frame_bytes) const {
  if (node >= windows_.size() || windows_[node].bytes == 0) return true;
  const NodeWindow& window = windows_[node];
  if (window.bytes + frame_bytes > options_.window_bytes) return false;
  return window.frame_seqs.empty() || nodes_->next_frame_seq(node) - *window.frame_seqs.begin() < kMaxFrameSeqSpread;
}

SpillSender::Sent SpillSender::Send(const BoundShard& shard, NodeIdx holder, uint32_t layer, uint64_t token_begin,
                                    uint32_t num_tokens, const KvReader& reader) {
  const ShardSpec& spec = shard.spec;
  const HeadRange heads{spec.kv_head_begin, spec.kv_head_end};
  if (nodes_->state(holder) == RemoteNodes::State::kFailed) return Sent::kFailed;
  const SpillBody body{.shard_id = spec.shard_id.value,
                       .sequence_epoch = spec.epoch.value,
                       .token_begin = token_begin,
                       .num_tokens = num_tokens,
                       .num_kv_heads = spec.num_kv_heads_held(),
                       .head_dim = spec.model.head_dim,
                       .k_dtype = static_cast<uint8_t>(shard.exchange_dtype),
                       .v_dtype = static_cast<uint8_t>(shard.exchange_dtype),
                       .policy_bytes = static_cast<uint32_t>(reader.SectionBytes(heads))};
  const size_t payload_bytes = SpillPayloadBytes(body);
  const uint64_t frame_bytes = kFrameHeaderBytes + payload_bytes;
  if (!Fits(holder, frame_bytes)) return Sent::kNoRoom;
  absl::StatusOr<FrameBuffer> frame = data_plane_->AllocateFrame(payload_bytes);
  if (!frame.ok()) return Sent::kNoRoom;

  const SpillSpans spans = WriteSpill(body, frame->payload());
  const uint64_t number = next_number_++;
  frame->header() = FrameHeader{
      .type = static_cast<uint8_t>(FrameType::kSpill), .step_id = number, .layer = static_cast<uint16_t>(layer)};
  const CopyTicket ticket = reader.Read(heads, spans.k, spans.v);
  if (body.policy_bytes > 0) reader.WriteSection(heads, spans.policy);

  const Key key{holder, spec.shard_id.value, layer, token_begin};
  const Frame entry{spec.sequence_id, num_tokens, frame_bytes, number, kUnsent, nodes_->patient_now_ns()};
  const bool added = frames_.try_emplace(key, entry).second;
  TRIBUTARY_CHECK(added);
  WindowOf(holder).bytes += frame_bytes;
  ++in_flight_[spec.sequence_id];
  traffic_[spec.sequence_id].sent += frame_bytes;
  if (metrics_ != nullptr) metrics_->spill_bytes.Increment(static_cast<double>(spans.k.size() + spans.v.size()));
  if (filling_.empty() && device_->CopyDone(ticket))
    return SendFilled(key, *std::move(frame)) ? Sent::kSent : Sent::kFailed;
  filling_.push_back({key, *std::move(frame), ticket});
  return Sent::kSent;
}

bool SpillSender::SendFilled(const Key& key, FrameBuffer frame) {
  const absl::StatusOr<uint64_t> frame_seq = nodes_->Send(key.node, std::move(frame), SendClass::kBulk);
  const auto it = frames_.find(key);  // gone if the node failed just now, and the listener dropped it
  if (!frame_seq.ok()) {
    if (it != frames_.end()) Forget(it);
    return false;
  }
  it->second.frame_seq = *frame_seq;
  it->second.sent_ns = nodes_->patient_now_ns();
  WindowOf(key.node).frame_seqs.insert(*frame_seq);
  return true;
}

int SpillSender::Pump() {
  int num_sent = 0;
  while (!filling_.empty() && device_->CopyDone(filling_.front().ticket)) {
    Filling filling = std::move(filling_.front());
    filling_.pop_front();
    // A failed node fails the sequence elsewhere.
    if (!filling.dropped && SendFilled(filling.key, std::move(filling.frame))) ++num_sent;
  }
  return num_sent;
}

std::optional<SpillFailure> SpillSender::OnAck(NodeIdx node, uint32_t layer, const AckBody& ack) {
  if (metrics_ != nullptr) metrics_->spill_acks[std::min(ack.status, kNumFrameErrors - 1)].Increment();
  const auto it = frames_.find(Key{node, ack.shard_id, layer, ack.token_begin});
  if (it == frames_.end() || it->second.num_tokens != ack.num_tokens) return std::nullopt;
  if (it->second.frame_seq == kUnsent) return std::nullopt;  // nobody can have it yet
  const SequenceId sequence = it->second.sequence;
  traffic_[sequence].received += kFrameHeaderBytes + sizeof(AckBody);
  Forget(it);
  const auto error = static_cast<FrameError>(ack.status);
  if (error == FrameError::kOk) return std::nullopt;
  return SpillFailure{
      sequence, node,
      absl::InternalError(fmt::format("shard {} refused tokens [{}, {}) of layer {}: {}", ack.shard_id, ack.token_begin,
                                      ack.token_begin + ack.num_tokens, layer, std::string(FrameErrorName(error))))};
}

std::optional<SpillFailure> SpillSender::OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text) {
  for (auto it = frames_.begin(); it != frames_.end(); ++it) {
    if (it->first.node != node || it->second.frame_seq != error.rejected_frame_seq) continue;
    const SequenceId sequence = it->second.sequence;
    const uint64_t shard_id = it->first.shard_id;
    Forget(it);
    return SpillFailure{
        sequence, node,
        absl::InternalError(fmt::format("it rejected a spill to shard {}: {}", shard_id, RefusalText(error, text)))};
  }
  return std::nullopt;
}

std::optional<SpillFailure> SpillSender::OnDamaged(NodeIdx node, const FrameHeader& header) {
  const auto type = static_cast<FrameType>(header.type);
  if (type != FrameType::kAck && type != FrameType::kError) return std::nullopt;
  for (auto it = frames_.begin(); it != frames_.end(); ++it) {
    if (it->first.node != node || it->second.number != header.step_id) continue;
    const SequenceId sequence = it->second.sequence;
    const uint64_t shard_id = it->first.shard_id;
    Forget(it);
    return SpillFailure{
        sequence, node,
        absl::InternalError(fmt::format("its answer to a spill to shard {} was damaged on the way: {}", shard_id,
                                        std::string(FrameErrorName(FrameError::kBadPayload))))};
  }
  return std::nullopt;
}

std::vector<SpillFailure> SpillSender::FindOverdue() const {
  std::vector<SpillFailure> failures;
  const int64_t now_ns = nodes_->patient_now_ns();
  for (const auto& [key, frame] : frames_) {
    if (nodes_->state(key.node) == RemoteNodes::State::kSilent) continue;
    if (now_ns - std::max(frame.sent_ns, nodes_->recovered_ns(key.node)) < options_.timeout_ns) continue;
    const bool known =
        std::any_of(failures.begin(), failures.end(), [&key = key, &frame = frame](const SpillFailure& f) {
          return f.sequence == frame.sequence && f.node == key.node;
        });
    if (known) continue;
    failures.push_back({frame.sequence, key.node,
                        absl::DeadlineExceededError(fmt::format(
                            "layer {}, tokens from {} on of shard {} were not acknowledged within {:.1f} s", key.layer,
                            key.token_begin, key.shard_id, SecondsFromNs(options_.timeout_ns)))});
  }
  return failures;
}

uint32_t SpillSender::in_flight(SequenceId sequence) const {
  const auto it = in_flight_.find(sequence);
  return it == in_flight_.end() ? 0 : it->second;
}

NodeIdx SpillSender::SlowestNode(SequenceId sequence) const {
  NodeIdx slowest = kNoNode;
  int64_t oldest_ns = 0;
  for (const auto& [key, frame] : frames_) {
    if (frame.sequence != sequence || (slowest != kNoNode && frame.sent_ns >= oldest_ns)) continue;
    slowest = key.node;
    oldest_ns = frame.sent_ns;
  }
  return slowest;
}

template <typename Predicate>
void SpillSender::ForgetIf(Predicate&& predicate) {
  // The device may still write into these frames: they stay until it has.
  for (Filling& filling : filling_) {
    if (!filling.dropped && predicate(filling.key, frames_.at(filling.key))) filling.dropped = true;
  }
  for (auto it = frames_.begin(); it != frames_.end();) {
    const auto current = it++;
    if (predicate(current->first, current->second)) Forget(current);
  }
}

void SpillSender::Drop(SequenceId sequence) {
  ForgetIf([&](const Key&, const Frame& frame) { return frame.sequence == sequence; });
  traffic_.erase(sequence);
}

void SpillSender::DropHolder(SequenceId sequence, NodeIdx node) {
  ForgetIf([&](const Key& key, const Frame& frame) { return key.node == node && frame.sequence == sequence; });
}

uint64_t SpillSender::bytes_in_flight(NodeIdx node) const { return node < windows_.size() ? windows_[node].bytes : 0; }

SpillSender::Traffic SpillSender::TakeTraffic(SequenceId sequence) {
  const auto it = traffic_.find(sequence);
  return it == traffic_.end() ? Traffic{} : std::exchange(it->second, {});
}

void SpillSender::Forget(Frames::iterator it) {
  NodeWindow& window = WindowOf(it->first.node);
  window.bytes -= it->second.bytes;
  window.frame_seqs.erase(it->second.frame_seq);
  const auto count = in_flight_.find(it->second.sequence);
  if (--count->second == 0) in_flight_.erase(count);
  frames_.erase(it);
}

SpillSender::NodeWindow& SpillSender::WindowOf(NodeIdx node) {
  if (node >= windows_.size()) windows_.resize(node + 1);
  return windows_[node];
}

}  // namespace tributary
