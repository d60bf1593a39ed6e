// A decode step over one row with two shards on one node, which the test plays: it answers queries with empty partials,
// or refuses them.
#pragma once

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "gpu_worker/step/decode_step.h"
#include "gtest/gtest.h"
#include "tests/testutil/tiny_device.h"
#include "transport/inproc/inproc_network.h"
#include "wire/frame_builder.h"
#include "wire/frame_seal.h"

namespace tributary::testing {

inline constexpr SessionKeys kKeys{SipKey{1, 2}, std::nullopt};

// Runs the node whenever the worker looks at the time.
class PumpingClock final : public Clock {
 public:
  int64_t NowNs() const override {
    if (pump) pump();
    return now_ns_ += tick_ns;
  }
  std::function<void()> pump;
  int64_t tick_ns = kNsPerUs;  // from one look to the next

 private:
  mutable int64_t now_ns_ = 1;
};

class EmptyNode final : public FrameHandler {
 public:
  explicit EmptyNode(std::unique_ptr<DataPlane> data_plane) : plane(std::move(data_plane)) {}
  void OnFrame(std::span<const std::byte> header_bytes, std::span<const std::byte> payload) override {
    FrameHeader header;
    ASSERT_EQ(DecodeHeader(header_bytes, payload.size(), &header), FrameError::kOk);
    ++num_frames[header.type];
    if (header.type != static_cast<uint8_t>(FrameType::kQuery)) return;
    if (on_query) on_query(header);
    if (refusal.has_value()) return Refuse(header);
    QueryView query;
    ASSERT_EQ(QueryView::Decode(payload, &query), FrameError::kOk);
    Answer(header, query);
  }
  void OnPeerError(PeerId, const absl::Status&) override {}

  std::unique_ptr<DataPlane> plane;
  PeerId peer;
  std::map<std::pair<uint32_t, uint64_t>, std::string> sections;               // by layer and shard
  std::map<std::pair<uint32_t, uint64_t>, std::vector<uint32_t>> dense_heads;  // likewise, of those that name some
  std::string answer;                                                          // the section of each partial
  std::optional<std::string> refusal;                // what the error frames say that answer queries
  bool damage = false;                               // a bit of each answer's payload changes on the way
  std::function<void(const FrameHeader&)> on_query;  // before it is answered
  std::map<uint8_t, int> num_frames;                 // received, by type

 private:
  void Answer(const FrameHeader& header, const QueryView& query) {
    std::vector<PartialEntry> entries;
    for (uint32_t i = 0; i < query.body().num_entries; ++i) {
      const QueryEntry entry = query.entry(i);
      const std::span<const std::byte> section = query.policy(entry);
      sections[{header.layer, entry.shard_id}].assign(reinterpret_cast<const char*>(section.data()), section.size());
      const std::span<const std::byte> dense = query.dense_heads(entry);
      for (size_t at = 0; at < dense.size(); at += sizeof(uint32_t)) {
        dense_heads[{header.layer, entry.shard_id}].push_back(ReadAt<uint32_t>(dense, at));
      }
      entries.push_back({.shard_id = entry.shard_id,
                         .num_q_heads = entry.num_q_heads,
                         .covered_tokens = entry.visible_end - entry.visible_begin,
                         .n_q = entry.n_q,
                         .num_kv_heads = entry.num_q_heads / 2,
                         .policy_bytes = static_cast<uint32_t>(answer.size())});
    }
    FrameBuffer frame = *plane->AllocateFrame(PartialPayloadBytes(entries, query.body().head_dim));
    PartialPayloadWriter writer(frame.payload(), query.body().num_entries, query.body().head_dim);
    for (const PartialEntry& entry : entries) {
      const PartialSpans spans = writer.Add(entry);
      std::fill(spans.lse_ln.begin(), spans.lse_ln.end(), kEmptyLse);
      std::memcpy(spans.policy.data(), answer.data(), answer.size());
    }
    Send(header, FrameType::kPartial, std::move(frame));
  }
  void Refuse(const FrameHeader& header) {
    FrameBuffer frame = *plane->AllocateFrame(ErrorPayloadBytes(*refusal));
    WriteError({.error = static_cast<uint32_t>(FrameError::kNotGranted),
                .rejected_type = header.type,
                .rejected_frame_seq = header.frame_seq},
               *refusal, frame.payload());
    Send(header, FrameType::kError, std::move(frame));
  }
  void Send(const FrameHeader& header, FrameType type, FrameBuffer frame) {
    frame.header() = {.type = static_cast<uint8_t>(type),
                      .session_id = header.session_id,
                      .frame_seq = ++frame_seq_,
                      .step_id = header.step_id,
                      .layer = header.layer,
                      .slot = header.slot};
    seal_.Seal(frame.header(), frame.payload());
    if (damage) frame.payload().back() ^= std::byte{1};
    ASSERT_TRUE(plane->Send(peer, std::move(frame), SendClass::kEager).ok());
  }

  FrameSeal seal_{kKeys, FrameDirection::kToWorker};
  uint64_t frame_seq_ = 0;
};

class QueryTimeDevice final : public TinyDevice {
 public:
  using TinyDevice::TinyDevice;
  std::span<const float> AwaitQuery(uint32_t layer) override {
    query_is_there = true;
    return TinyDevice::AwaitQuery(layer);
  }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) override {
    query_is_there = false;
    TinyDevice::FinishLayer(layer, num_slots);
  }
  bool query_is_there = false;
};

class DecodeStepNodeTest : public ::testing::Test, public BlockingConnector, public NodeListener {
 protected:
  static constexpr int64_t kTimeoutNs = kNsPerS;

  DecodeStepNodeTest()
      : network_(1, &network_clock_), worker_(network_.Create("worker")), node_(network_.Create("node")) {
    (void)InitLogging("test", "off");
    RemoteNodesOptions options;
    options.min_silence_ns = options.max_silence_ns = 1000 * kNsPerS;
    nodes_ = std::make_unique<RemoteNodes>(options, worker_.get(), this, &clock_, this, nullptr);
    const NodeIdx node = *nodes_->Acquire({"cpu-0", 1, "host:1"});
    step_ = std::make_unique<DecodeStep>(
        DecodeStepOptions{.shape = TinyModel().shape, .num_layers = 3, .softmax_scale = 1.0f}, &device_, worker_.get(),
        nodes_.get(), &clock_, nullptr, nullptr);
    clock_.pump = [this] { node_.plane->Poll(node_); };
    // Two shards, one KV head each.
    for (uint32_t head = 0; head < 2; ++head) {
      ShardSpec spec;
      spec.shard_id = ShardId(10 + head);
      spec.model = TinyModel().shape;
      spec.num_layers = spec.layer_end = 3;
      spec.kv_head_begin = head;
      spec.kv_head_end = head + 1;
      spec.stripe = {.origin = 2, .stripe_tokens = 4, .num_stripes = 1, .stripe_idx = 0};
      shards_.push_back({spec, {{node}}, DType::kF32});
    }
    row_.device = {.token = 1, .pos = 6, .resident = *device_.ReserveResident({4, DType::kF32})};
    row_.device.attend[0] = {0, 1};
    row_.shards = shards_;
    row_.remote = {2, 8};
    row_.context_tokens = 7;
    row_.resident_tokens = 1;
  }
  absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo& local) override {
    node_.peer = *node_.plane->Connect(local.address);
    return NodeSession{node_.plane->info(), SessionId(5), kKeys, Epoch(1), node.node_id};
  }
  void OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial) override {
    step_->OnPartial(node, header, partial);
  }
  void OnAck(NodeIdx, const FrameHeader&, const AckBody&) override {}
  void OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text) override {
    step_->OnRejected(node, error, text);
  }
  void OnDamaged(NodeIdx node, const FrameHeader& header) override { step_->OnDamaged(node, header); }
  void OnNodeSilent(NodeIdx, const absl::Status&) override {}
  void OnNodeFailed(NodeIdx, const absl::Status&) override {}

  void Run() { step_->Run({&row_, 1}, kTimeoutNs); }

  PumpingClock clock_;
  ManualClock network_clock_;  // of its own: the network looks at the time under its lock
  InprocNetwork network_;
  QueryTimeDevice device_{{}, {.max_batch = 1, .max_partial_slots = 1, .resident_pool_bytes = 1 << 20}};
  std::unique_ptr<DataPlane> worker_;
  EmptyNode node_;
  std::unique_ptr<RemoteNodes> nodes_;
  std::unique_ptr<DecodeStep> step_;
  std::vector<BoundShard> shards_;
  StepRow row_;
};

}  // namespace tributary::testing
