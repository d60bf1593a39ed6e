// The node's core over the in-process network; the test plays the GPU worker.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <functional>

#include "base/limits.h"
#include "base/log.h"
#include "cpu_attention_service/node/attention_metrics.h"
#include "cpu_attention_service/node/attention_server.h"
#include "fmt/format.h"
#include "tests/unit/cpu_attention_service/node/test_shard.h"
#include "transport/inproc/inproc_network.h"
#include "wire/frame_builder.h"
#include "wire/frame_seal.h"
#include "wire/replay_window.h"

namespace tributary::testing {

inline constexpr float kScale = 0.125f;
inline constexpr AttentionShape kShape{4, 2, 64};

struct Received {
  FrameHeader header;
  std::vector<std::byte> payload;
};

// A GPU worker's data plane: keeps what it receives.
class FakeWorker : public FrameHandler {
 public:
  FakeWorker(InprocNetwork& network, const std::string& name, uint64_t incarnation = 1)
      : name_(name), incarnation_(incarnation), plane_(network.Create(name)) {}

  void Connect(AttentionServer& server, std::string_view node_address) {
    auto grant = server.OpenSession(identity(), name_);
    ASSERT_TRUE(grant.ok()) << grant.status();
    grant_ = *grant;
    incoming_ = FrameSeal(grant_.keys, FrameDirection::kToWorker);
    outgoing_ = FrameSeal(grant_.keys, FrameDirection::kToNode);
    auto peer = plane_->Connect(node_address);
    ASSERT_TRUE(peer.ok()) << peer.status();
    node_ = *peer;
  }

  FrameHeader Header(FrameType type, uint16_t layer = 0) {
    FrameHeader header;
    header.type = static_cast<uint8_t>(type);
    header.session_id = grant_.session_id.value;
    header.frame_seq = ++frame_seq_;
    header.step_id = 7;
    header.layer = layer;
    header.slot = 3;
    return header;
  }

  // Seals and sends.
  void Send(FrameHeader header, std::span<const std::byte> payload) {
    outgoing_.Seal(header, payload);
    SendRaw(header, payload);
  }
  // Seals, flips one bit of the payload, and sends.
  void SendDamaged(FrameHeader header, std::span<const std::byte> payload, size_t bit) {
    outgoing_.Seal(header, payload);
    std::vector<std::byte> damaged(payload.begin(), payload.end());
    damaged[bit / 8] ^= std::byte{1} << (bit % 8);
    SendRaw(header, damaged);
  }
  void SendRaw(const FrameHeader& header, std::span<const std::byte> payload) {
    auto frame = plane_->AllocateFrame(payload.size());
    ASSERT_TRUE(frame.ok()) << frame.status();
    frame->header() = header;
    std::copy(payload.begin(), payload.end(), frame->payload().begin());
    ASSERT_TRUE(plane_->Send(node_, *std::move(frame), SendClass::kEager).ok());
  }

  void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) override {
    Received frame;
    ASSERT_EQ(DecodeHeader(header, payload.size(), &frame.header), FrameError::kOk);
    ASSERT_TRUE(incoming_.VerifyHeader(frame.header));
    ASSERT_TRUE(seen_.Accept(frame.header.frame_seq));
    ASSERT_TRUE(incoming_.VerifyPayload(frame.header, payload));
    frame.payload.assign(payload.begin(), payload.end());
    received_.push_back(std::move(frame));
  }
  void OnPeerError(PeerId, const absl::Status&) override {}

  DataPlane& plane() { return *plane_; }
  WorkerIdentity identity() const { return {name_, incarnation_}; }
  const SessionGrant& grant() const { return grant_; }
  std::deque<Received>& received() { return received_; }

 private:
  std::string name_;
  uint64_t incarnation_;
  std::unique_ptr<DataPlane> plane_;
  SessionGrant grant_;
  FrameSeal incoming_, outgoing_;
  PeerId node_;
  uint64_t frame_seq_ = 0;
  ReplayWindow seen_;
  std::deque<Received> received_;
};

class AttentionServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(InitLogging("test", "off").ok());
    Start();
  }

  using WrapPlane = std::function<std::unique_ptr<DataPlane>(std::unique_ptr<DataPlane>)>;

  void Start(uint64_t pool_bytes = 4u << 20, InprocOptions options = {}, int64_t idle_ns = 0, int num_threads = 2,
             const WrapPlane& wrap = nullptr) {
    server_.reset();
    plane_.reset();
    plane_ = network_.Create("node", options);
    if (wrap) plane_ = wrap(std::move(plane_));
    AttentionServerOptions server_options;
    server_options.node_id = "n0";
    server_options.incarnation = 42;
    server_options.arena.bytes = pool_bytes;
    server_options.extent_bytes = 16 << 10;
    server_options.num_threads = num_threads;
    server_options.session_idle_ns = idle_ns;
    server_options.data_plane_mac = data_plane_mac_;
    server_options.ids = SeededIds(seed_);
    auto server = AttentionServer::Create(server_options, plane_.get(), &clock_, &metrics_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    worker_ = std::make_unique<FakeWorker>(network_, fmt::format("worker{}", ++num_workers_));
    worker_->Connect(*server_, "node");
  }

  // Delivers frames until nothing moves.
  void Settle() {
    for (int quiet = 0; quiet < 3;) {
      const int events = server_->Poll() + worker_->plane().Poll(*worker_);
      quiet = events == 0 ? quiet + 1 : 0;
    }
  }

  std::vector<std::byte> SpillPayload(const ShardSpec& spec, const LayerKv& kv, uint32_t begin, uint32_t end) {
    SpillBody body;
    body.shard_id = spec.shard_id.value;
    body.sequence_epoch = spec.epoch.value;
    body.token_begin = begin;
    body.num_tokens = end - begin;
    body.num_kv_heads = spec.num_kv_heads_held();
    body.head_dim = spec.model.head_dim;
    body.k_dtype = static_cast<uint8_t>(spec.k_dtype);
    body.v_dtype = static_cast<uint8_t>(spec.v_dtype);
    AlignedBuffer<std::byte> payload(SpillPayloadBytes(body));
    const SpillSpans spans = WriteSpill(body, payload.span());
    const size_t token_bytes = size_t{spec.num_kv_heads_held()} * spec.model.head_dim * DTypeBytes(spec.k_dtype);
    std::memcpy(spans.k.data(), kv.k.data() + begin * token_bytes, spans.k.size());
    std::memcpy(spans.v.data(), kv.v.data() + begin * token_bytes, spans.v.size());
    return {payload.span().begin(), payload.span().end()};
  }

  AckBody Spill(const ShardSpec& spec, const LayerKv& kv, uint32_t begin, uint32_t end, uint16_t layer = 0) {
    worker_->Send(worker_->Header(FrameType::kSpill, layer), SpillPayload(spec, kv, begin, end));
    Settle();
    AckBody ack;
    const Received frame = Take(FrameType::kAck);
    EXPECT_EQ(DecodeAck(frame.payload, &ack), FrameError::kOk);
    return ack;
  }

  Received Take(FrameType type) {
    if (worker_->received().empty()) {
      ADD_FAILURE() << "no answer";
      return {};
    }
    Received frame = std::move(worker_->received().front());
    worker_->received().pop_front();
    EXPECT_EQ(frame.header.type, static_cast<uint8_t>(type));
    EXPECT_EQ(frame.header.step_id, 7u);
    EXPECT_EQ(frame.header.slot, 3u);
    return frame;
  }

  // `text_part`: what the text says.
  FrameError TakeError(const std::string& text_part = "node n0") {
    const Received frame = Take(FrameType::kError);
    ErrorBody body;
    std::string_view text;
    EXPECT_EQ(DecodeError(frame.payload, &body, &text), FrameError::kOk);
    EXPECT_THAT(std::string(text), ::testing::HasSubstr(text_part));
    return static_cast<FrameError>(body.error);
  }

  static QueryEntry Entry(const ShardSpec& spec, uint64_t begin, uint64_t end, uint32_t n_q = 1) {
    QueryEntry entry;
    entry.shard_id = spec.shard_id.value;
    entry.sequence_epoch = spec.epoch.value;
    entry.visible_begin = begin;
    entry.visible_end = end;
    entry.num_q_heads = spec.num_q_heads_held();
    entry.n_q = n_q;
    return entry;
  }

  // q of all entries, one after another. `dense_heads`: the first word of entries that name some.
  std::vector<std::byte> QueryPayload(const std::vector<QueryEntry>& entries, std::span<const float> q,
                                      uint32_t head_dim = 64, uint32_t dense_heads = 0) {
    AlignedBuffer<std::byte> payload(QueryPayloadBytes(entries, head_dim));
    QueryPayloadWriter writer(payload.span(), static_cast<uint32_t>(entries.size()), head_dim, kScale);
    for (const QueryEntry& entry : entries) {
      const QuerySpans to = writer.Add(entry);
      std::copy_n(q.begin(), to.q.size(), to.q.begin());
      q = q.subspan(to.q.size());
      std::fill(to.dense_heads.begin(), to.dense_heads.end(), 0u);
      if (!to.dense_heads.empty()) to.dense_heads[0] = dense_heads;
    }
    return {payload.span().begin(), payload.span().end()};
  }

  std::vector<float> RandomQ(size_t entries = 1) { return RandomFloats(entries * 4 * 64, random_); }

  // A shard with KV of layer 0 stored.
  ShardSpec StoredShard(uint64_t id, uint32_t num_tokens, LayerKv* kv) {
    const ShardSpec spec = MakeSpec(id, kShape, num_tokens);
    EXPECT_TRUE(server_->OpenShard(spec, worker_->identity()).ok());
    *kv = RandomLayerKv(spec, num_tokens, random_);
    EXPECT_EQ(Spill(spec, *kv, 0, num_tokens).stored_tokens, num_tokens);
    return spec;
  }

  static void ExpectPartial(const PartialFrameView& view, uint32_t i, const ShardSpec& spec, const LayerKv& kv,
                            std::span<const float> q, TokenRange rows) {
    const PartialEntry entry = view.entry(i);
    ASSERT_EQ(entry.status, 0u) << FrameErrorName(static_cast<FrameError>(entry.status));
    EXPECT_EQ(entry.covered_tokens, rows.size());
    EXPECT_EQ(entry.attended_head_tokens, rows.size() * entry.num_kv_heads);
    const ReferencePartial expected = Reference(spec, kv, q, rows, kScale);
    for (size_t d = 0; d < expected.out.size(); ++d) {
      ASSERT_NEAR(ReadAt<float>(view.out(entry), d * 4), expected.out[d], OutTolerance(spec));
    }
    for (size_t h = 0; h < expected.lse_ln.size(); ++h) {
      ASSERT_NEAR(ReadAt<float>(view.lse_ln(entry), h * 4), expected.lse_ln[h], 1e-5);
    }
  }

  double Rejected(FrameError reason) const { return metrics_.frames_rejected[static_cast<size_t>(reason)].value(); }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
  ManualClock clock_;
  InprocNetwork network_{seed_, &clock_};
  MetricRegistry registry_;
  AttentionMetrics metrics_{registry_};
  std::unique_ptr<DataPlane> plane_;
  std::unique_ptr<AttentionServer> server_;
  std::unique_ptr<FakeWorker> worker_;
  int num_workers_ = 0;
  bool data_plane_mac_ = false;  // of servers started from now on
};

}  // namespace tributary::testing
