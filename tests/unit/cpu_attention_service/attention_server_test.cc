// The node's core over the in-process network: the test plays the GPU worker.
#include "cpu_attention_service/attention_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>

#include "attention/frame_builder.h"
#include "base/limits.h"
#include "base/log.h"
#include "cpu_attention_service/answer_sender.h"
#include "cpu_attention_service/attention_metrics.h"
#include "cpu_attention_service/session_table.h"
#include "fmt/format.h"
#include "tests/unit/cpu_attention_service/test_shard.h"
#include "transport/inproc/inproc_network.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using testing::LayerKv;
using testing::MakeSpec;
using testing::RandomFloats;
using testing::RandomLayerKv;
using testing::TestSeed;

constexpr float kScale = 0.125f;
constexpr AttentionShape kShape{4, 2, 64};

struct Received {
  FrameHeader header;
  std::vector<std::byte> payload;
};

// A GPU worker's data plane: keeps what it receives.
class FakeWorker : public FrameHandler {
 public:
  FakeWorker(InprocNetwork& network, const std::string& name)
      : name_(name), plane_(network.Create(name)) {}

  void Connect(AttentionServer& server, std::string_view node_address) {
    auto grant = server.OpenSession(name_, name_);
    ASSERT_TRUE(grant.ok()) << grant.status();
    grant_ = *grant;
    auto peer = plane_->Connect(node_address);
    ASSERT_TRUE(peer.ok()) << peer.status();
    node_ = *peer;
  }

  FrameHeader Header(FrameType type, uint16_t layer = 0) {
    FrameHeader header;
    header.type = static_cast<uint8_t>(type);
    header.session_id = grant_.session_id.value;
    header.epoch = grant_.epoch.value;
    header.frame_seq = ++frame_seq_;
    header.step_id = 7;
    header.layer = layer;
    header.slot = 3;
    return header;
  }

  // Seals and sends.
  void Send(FrameHeader header, std::span<const std::byte> payload) {
    header.payload_bytes = static_cast<uint32_t>(payload.size());
    SealHeader(grant_.key, header);
    SendRaw(header, payload);
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
    ASSERT_TRUE(VerifyHeader(grant_.key, frame.header));
    ASSERT_TRUE(seen_.Accept(frame.header.frame_seq));
    ASSERT_EQ(frame.header.epoch, grant_.epoch.value);
    frame.payload.assign(payload.begin(), payload.end());
    received_.push_back(std::move(frame));
  }
  void OnPeerError(PeerId, const absl::Status&) override {}

  DataPlane& plane() { return *plane_; }
  const SessionGrant& grant() const { return grant_; }
  SessionGrant& grant() { return grant_; }
  std::deque<Received>& received() { return received_; }

 private:
  std::string name_;
  std::unique_ptr<DataPlane> plane_;
  SessionGrant grant_;
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

  void Start(uint64_t pool_bytes = 4u << 20, InprocOptions options = {}, int64_t idle_ns = 0) {
    server_.reset();
    plane_.reset();
    plane_ = network_.Create("node", options);
    AttentionServerOptions server_options;
    server_options.node_id = "n0";
    server_options.incarnation = 42;
    server_options.kv_pool_bytes = pool_bytes;
    server_options.extent_bytes = 4096;
    server_options.num_threads = 2;
    server_options.session_idle_ns = idle_ns;
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

  std::vector<std::byte> SpillPayload(const ShardSpec& spec, const LayerKv& kv, uint32_t begin,
                                      uint32_t end) {
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
    const size_t token_bytes =
        size_t{spec.num_kv_heads_held()} * spec.model.head_dim * DTypeBytes(spec.k_dtype);
    std::memcpy(spans.k.data(), kv.k.data() + begin * token_bytes, spans.k.size());
    std::memcpy(spans.v.data(), kv.v.data() + begin * token_bytes, spans.v.size());
    return {payload.span().begin(), payload.span().end()};
  }

  AckBody Spill(const ShardSpec& spec, const LayerKv& kv, uint32_t begin, uint32_t end,
                uint16_t layer = 0) {
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

  FrameError TakeError() {
    const Received frame = Take(FrameType::kError);
    ErrorBody body;
    std::string_view text;
    EXPECT_EQ(DecodeError(frame.payload, &body, &text), FrameError::kOk);
    EXPECT_THAT(std::string(text), HasSubstr("node n0"));
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

  // q of all entries, one after another.
  std::vector<std::byte> QueryPayload(const std::vector<QueryEntry>& entries,
                                      std::span<const float> q, uint32_t head_dim = 64) {
    AlignedBuffer<std::byte> payload(QueryPayloadBytes(entries, head_dim));
    QueryPayloadWriter writer(payload.span(), static_cast<uint32_t>(entries.size()), head_dim,
                              kScale);
    for (const QueryEntry& entry : entries) {
      const std::span<float> to = writer.Add(entry);
      std::copy_n(q.begin(), to.size(), to.begin());
      q = q.subspan(to.size());
    }
    return {payload.span().begin(), payload.span().end()};
  }

  std::vector<float> RandomQ(size_t entries = 1) { return RandomFloats(entries * 4 * 64, random_); }

  // A shard with KV of layer 0 stored.
  ShardSpec StoredShard(uint64_t id, uint32_t num_tokens, LayerKv* kv) {
    const ShardSpec spec = MakeSpec(id, kShape, num_tokens);
    EXPECT_TRUE(server_->OpenShard(spec).ok());
    *kv = RandomLayerKv(spec, num_tokens, random_);
    EXPECT_EQ(Spill(spec, *kv, 0, num_tokens).stored_tokens, num_tokens);
    return spec;
  }

  static void ExpectPartial(const PartialFrameView& view, uint32_t i, const ShardSpec& spec,
                            const LayerKv& kv, std::span<const float> q, TokenRange rows) {
    const PartialEntry entry = view.entry(i);
    ASSERT_EQ(entry.status, 0u) << FrameErrorName(static_cast<FrameError>(entry.status));
    EXPECT_EQ(entry.covered_tokens, rows.size());
    EXPECT_EQ(entry.attended_tokens, rows.size());
    const ReferencePartial expected = testing::Reference(spec, kv, q, rows, kScale);
    for (size_t d = 0; d < expected.out.size(); ++d) {
      ASSERT_NEAR(ReadAt<float>(view.out(entry), d * 4), expected.out[d], 1e-5);
    }
    for (size_t h = 0; h < expected.lse_ln.size(); ++h) {
      ASSERT_NEAR(ReadAt<float>(view.lse_ln(entry), h * 4), expected.lse_ln[h], 1e-5);
    }
  }

  double Rejected(FrameError reason) const {
    return metrics_.frames_rejected[static_cast<size_t>(reason)].value();
  }

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
};

TEST_F(AttentionServerTest, AnswersAQueryOverTwoShards) {
  LayerKv kv_a, kv_b;
  const ShardSpec a = StoredShard(1, 200, &kv_a);
  const ShardSpec b = StoredShard(2, 90, &kv_b);
  const std::vector<float> q = RandomQ(2);
  worker_->Send(worker_->Header(FrameType::kQuery),
                QueryPayload({Entry(a, 0, 200), Entry(b, 10, 80)}, q));
  Settle();
  const Received frame = Take(FrameType::kPartial);
  PartialFrameView view;
  ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
  ASSERT_EQ(view.body().num_entries, 2u);
  ExpectPartial(view, 0, a, kv_a, std::span(q).first(256), {0, 200});
  ExpectPartial(view, 1, b, kv_b, std::span(q).subspan(256), {10, 80});
  EXPECT_EQ(metrics_.requests[0].value(), 2);
  EXPECT_EQ(metrics_.attended_tokens.value(), 270);
}

TEST_F(AttentionServerTest, AStripeAnswersForItsOwnTokens) {
  ShardSpec spec = MakeSpec(1, kShape, 64);
  spec.stripe = {100, 16, 2, 1};  // tokens [116, 132), [148, 164), ...
  ASSERT_TRUE(server_->OpenShard(spec).ok());
  LayerKv kv = RandomLayerKv(spec, 32, random_);
  const size_t run_bytes = 16 * 2 * 64 * 2;
  for (uint32_t run = 0; run < 2; ++run) {
    LayerKv part{{kv.k.begin() + run * run_bytes, kv.k.begin() + (run + 1) * run_bytes},
                 {kv.v.begin() + run * run_bytes, kv.v.begin() + (run + 1) * run_bytes}};
    std::vector<std::byte> payload = SpillPayload(spec, part, 0, 16);
    SpillBody body = ReadAt<SpillBody>(payload, 0);
    body.token_begin = 116 + run * 32;
    std::memcpy(payload.data(), &body, sizeof(body));
    worker_->Send(worker_->Header(FrameType::kSpill), payload);
    Settle();
    AckBody ack;
    ASSERT_EQ(DecodeAck(Take(FrameType::kAck).payload, &ack), FrameError::kOk);
    EXPECT_EQ(ack.stored_tokens, 16 * (run + 1));
  }
  const std::vector<float> q = RandomQ();
  worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({Entry(spec, 100, 164)}, q));
  Settle();
  PartialFrameView view;
  const Received frame = Take(FrameType::kPartial);
  ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
  ExpectPartial(view, 0, spec, kv, q, {0, 32});
}

TEST_F(AttentionServerTest, ABadEntryHarmsNoOther) {
  LayerKv kv;
  const ShardSpec good = StoredShard(1, 100, &kv);
  ShardSpec unknown = good, stale = good;
  unknown.shard_id = ShardId(99);
  stale.epoch = Epoch(0);
  QueryEntry wrong_heads = Entry(good, 0, 100);
  wrong_heads.num_q_heads = 2;
  const ShardSpec empty = MakeSpec(5, kShape, 50);
  ASSERT_TRUE(server_->OpenShard(empty).ok());
  const std::vector<QueryEntry> entries = {
      Entry(unknown, 0, 100), Entry(stale, 0, 100), wrong_heads,
      Entry(empty, 0, 1),     Entry(good, 0, 100),  Entry(empty, 0, 0)};
  const std::vector<float> q = RandomQ(6);
  worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload(entries, q));
  Settle();
  const Received frame = Take(FrameType::kPartial);
  PartialFrameView view;
  ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
  const FrameError expected[] = {FrameError::kUnknownShard, FrameError::kStaleEpoch,
                                 FrameError::kBadGeometry,  FrameError::kNotStored,
                                 FrameError::kOk,           FrameError::kOk};
  for (uint32_t i = 0; i < 6; ++i) {
    EXPECT_EQ(static_cast<FrameError>(view.entry(i).status), expected[i]) << i;
  }
  // wrong_heads has two heads less: q of entry 4 starts at 3 * 256 + 128.
  ExpectPartial(view, 4, good, kv, std::span(q).subspan(2 * 256 + 128 + 256, 256), {0, 100});
  EXPECT_EQ(view.entry(5).covered_tokens, 0u);
  EXPECT_EQ(ReadAt<float>(view.lse_ln(view.entry(5)), 0), kEmptyLse);
}

TEST_F(AttentionServerTest, WrongHeadDimAndLayerAreRefusedPerEntry) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 10, &kv);
  worker_->Send(worker_->Header(FrameType::kQuery),
                QueryPayload({Entry(spec, 0, 10)}, RandomQ(), 32));
  worker_->Send(worker_->Header(FrameType::kQuery, 2),
                QueryPayload({Entry(spec, 0, 10)}, RandomQ()));
  worker_->Send(worker_->Header(FrameType::kQuery, 1),
                QueryPayload({Entry(spec, 0, 10)}, RandomQ()));
  Settle();
  for (FrameError expected :
       {FrameError::kBadGeometry, FrameError::kOutOfRange, FrameError::kNotStored}) {
    const Received frame = Take(FrameType::kPartial);
    PartialFrameView view;
    ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
    EXPECT_EQ(static_cast<FrameError>(view.entry(0).status), expected);
  }
}

TEST_F(AttentionServerTest, SpillsMayComeTwiceAndOutOfOrder) {
  const ShardSpec spec = MakeSpec(1, kShape, 64);
  ASSERT_TRUE(server_->OpenShard(spec).ok());
  const LayerKv kv = RandomLayerKv(spec, 64, random_);
  EXPECT_EQ(Spill(spec, kv, 16, 32).stored_tokens, 0u);
  EXPECT_EQ(Spill(spec, kv, 16, 32).stored_tokens, 0u);
  EXPECT_EQ(Spill(spec, kv, 0, 16).stored_tokens, 32u);
  EXPECT_EQ(Spill(spec, kv, 48, 64).stored_tokens, 32u);
  const AckBody last = Spill(spec, kv, 24, 48);
  EXPECT_EQ(last.stored_tokens, 64u);
  EXPECT_EQ(last.token_begin, 24u);
  EXPECT_EQ(last.num_tokens, 24u);
  ASSERT_EQ(server_->shards().size(), 1u);
  EXPECT_EQ(server_->shards()[0].stored_tokens, 32u);  // one of two layers
}

TEST_F(AttentionServerTest, BadSpillsAreAcknowledgedWithTheReason) {
  const ShardSpec spec = MakeSpec(1, kShape, 32);
  ASSERT_TRUE(server_->OpenShard(spec).ok());
  const LayerKv kv = RandomLayerKv(spec, 64, random_);
  const auto status = [](const AckBody& ack) { return static_cast<FrameError>(ack.status); };
  EXPECT_EQ(status(Spill(spec, kv, 16, 48)), FrameError::kOutOfRange);
  EXPECT_EQ(status(Spill(spec, kv, 0, 16, 2)), FrameError::kOutOfRange);
  ShardSpec other = spec;
  other.epoch = Epoch(9);
  EXPECT_EQ(status(Spill(other, kv, 0, 16)), FrameError::kStaleEpoch);
  other = spec;
  other.shard_id = ShardId(77);
  EXPECT_EQ(status(Spill(other, kv, 0, 16)), FrameError::kUnknownShard);
  other = spec;
  other.kv_head_end = 1;
  EXPECT_EQ(status(Spill(other, kv, 0, 16)), FrameError::kBadGeometry);
  other = spec;
  other.k_dtype = DType::kF16;  // the same size
  EXPECT_EQ(status(Spill(other, kv, 0, 16)), FrameError::kBadGeometry);
  EXPECT_EQ(metrics_.ingest_bytes.value(), 0);
  EXPECT_EQ(status(Spill(spec, kv, 0, 16)), FrameError::kOk);
  EXPECT_EQ(metrics_.ingest_bytes.value(), 16 * 2 * 64 * 2 * 2);
}

TEST_F(AttentionServerTest, HeartbeatsAreReturned) {
  AlignedBuffer<std::byte> payload(kHeartbeatPayloadBytes);
  WriteHeartbeat({.sent_ns = 123}, payload.span());
  worker_->Send(worker_->Header(FrameType::kHeartbeat), payload.span());
  WriteHeartbeat({.sent_ns = 124, .is_reply = 1}, payload.span());
  worker_->Send(worker_->Header(FrameType::kHeartbeat), payload.span());
  Settle();
  HeartbeatBody heartbeat;
  ASSERT_EQ(DecodeHeartbeat(Take(FrameType::kHeartbeat).payload, &heartbeat), FrameError::kOk);
  EXPECT_EQ(heartbeat.sent_ns, 123u);
  EXPECT_EQ(heartbeat.is_reply, 1u);
  EXPECT_TRUE(worker_->received().empty());
}

TEST_F(AttentionServerTest, UnauthenticFramesAreCountedAndNotAnswered) {
  AlignedBuffer<std::byte> payload(kHeartbeatPayloadBytes);
  WriteHeartbeat({}, payload.span());
  const auto send = [&](FrameHeader header, bool seal) {
    header.payload_bytes = kHeartbeatPayloadBytes;
    if (seal) SealHeader(worker_->grant().key, header);
    worker_->SendRaw(header, payload.span());
    Settle();
  };
  FrameHeader header = worker_->Header(FrameType::kHeartbeat);
  header.session_id ^= 1;
  send(header, true);
  EXPECT_EQ(Rejected(FrameError::kUnknownSession), 1);

  header = worker_->Header(FrameType::kHeartbeat);
  send(header, false);
  EXPECT_EQ(Rejected(FrameError::kBadAuthTag), 1);

  send(header, true);  // genuine now
  EXPECT_EQ(worker_->received().size(), 1u);
  worker_->received().clear();
  send(header, true);
  EXPECT_EQ(Rejected(FrameError::kReplayed), 1);

  header = worker_->Header(FrameType::kHeartbeat);
  header.version = 9;
  header.payload_bytes = kHeartbeatPayloadBytes;
  worker_->SendRaw(header, payload.span());
  header.magic = 0;
  worker_->SendRaw(header, payload.span());
  Settle();
  EXPECT_EQ(Rejected(FrameError::kBadVersion), 1);
  EXPECT_EQ(Rejected(FrameError::kBadMagic), 1);
  EXPECT_TRUE(worker_->received().empty());
}

TEST_F(AttentionServerTest, GenuineButBadFramesGetAnErrorFrame) {
  worker_->grant().epoch = Epoch(41);  // as after a restart of the node
  AlignedBuffer<std::byte> heartbeat(kHeartbeatPayloadBytes);
  WriteHeartbeat({}, heartbeat.span());
  worker_->Send(worker_->Header(FrameType::kHeartbeat), heartbeat.span());
  worker_->grant().epoch = Epoch(42);
  Settle();
  EXPECT_EQ(TakeError(), FrameError::kStaleEpoch);

  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 10, &kv);
  std::vector<std::byte> query = QueryPayload({Entry(spec, 0, 10)}, RandomQ());
  query.resize(query.size() - 4);
  worker_->Send(worker_->Header(FrameType::kQuery), query);
  Settle();
  EXPECT_EQ(TakeError(), FrameError::kTruncated);

  std::vector<std::byte> spill = SpillPayload(spec, kv, 0, 10);
  spill.resize(30);
  worker_->Send(worker_->Header(FrameType::kSpill), spill);
  Settle();
  EXPECT_EQ(TakeError(), FrameError::kTruncated);

  worker_->Send(worker_->Header(FrameType::kAck), heartbeat.span());
  Settle();
  EXPECT_EQ(TakeError(), FrameError::kBadType);
  worker_->Send(worker_->Header(FrameType::kError), heartbeat.span());
  Settle();
  EXPECT_TRUE(worker_->received().empty());
}

TEST_F(AttentionServerTest, RandomBytesNeverHarm) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 40, &kv);
  const std::vector<std::byte> query = QueryPayload({Entry(spec, 0, 40)}, RandomQ());
  const std::vector<std::byte> spill = SpillPayload(spec, kv, 0, 40);
  std::uniform_int_distribution<int> byte(0, 255);
  for (int i = 0; i < 2000; ++i) {
    const bool is_query = random_() % 2 == 0;
    std::vector<std::byte> payload = is_query ? query : spill;
    for (uint64_t flips = 1 + random_() % 4; flips > 0; --flips) {
      payload[random_() % std::min<size_t>(payload.size(), 80)] =
          static_cast<std::byte>(byte(random_));
    }
    if (random_() % 4 == 0) payload.resize(random_() % payload.size());
    worker_->Send(worker_->Header(is_query ? FrameType::kQuery : FrameType::kSpill,
                                  static_cast<uint16_t>(random_() % 3)),
                  payload);
    Settle();
    worker_->received().clear();
  }
  EXPECT_EQ(Spill(spec, kv, 0, 40).stored_tokens, 40u);
}

TEST_F(AttentionServerTest, AnswersWaitForASendBuffer) {
  Start(4u << 20, {.max_frames_in_flight = 2});
  AlignedBuffer<std::byte> payload(kHeartbeatPayloadBytes);
  for (uint64_t i = 0; i < 10; ++i) {
    WriteHeartbeat({.sent_ns = i}, payload.span());
    worker_->Send(worker_->Header(FrameType::kHeartbeat), payload.span());
  }
  server_->Poll();  // the worker takes nothing, so two are on their way and eight wait
  EXPECT_EQ(server_->num_waiting_answers(), 8u);
  Settle();
  EXPECT_EQ(server_->num_waiting_answers(), 0u);
  ASSERT_EQ(worker_->received().size(), 10u);
}

TEST_F(AttentionServerTest, WaitingAnswersAreBounded) {
  Start(4u << 20, {.max_frames_in_flight = 1});
  AlignedBuffer<std::byte> payload(kHeartbeatPayloadBytes);
  WriteHeartbeat({}, payload.span());
  for (size_t i = 0; i < AnswerSender::kMaxWaiting + 100; i += 100) {
    for (int k = 0; k < 100; ++k) {
      worker_->Send(worker_->Header(FrameType::kHeartbeat), payload.span());
    }
    server_->Poll();
  }
  server_->Poll();
  EXPECT_EQ(server_->num_waiting_answers(), AnswerSender::kMaxWaiting);
}

TEST_F(AttentionServerTest, APeerErrorEndsTheSessionAndKeepsTheShards) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 10, &kv);
  network_.Kill("worker1");
  server_->Poll();
  server_->Poll();
  EXPECT_EQ(server_->num_sessions(), 0u);
  EXPECT_EQ(server_->shards().size(), 1u);

  worker_ = std::make_unique<FakeWorker>(network_, "worker2");
  worker_->Connect(*server_, "node");
  EXPECT_EQ(Spill(spec, kv, 0, 10).stored_tokens, 10u);
}

TEST_F(AttentionServerTest, AWorkerThatConnectsAgainReplacesItsSession) {
  const SessionId old = worker_->grant().session_id;
  auto grant = server_->OpenSession("worker1", "worker1");
  ASSERT_TRUE(grant.ok()) << grant.status();
  EXPECT_NE(grant->session_id, old);
  EXPECT_EQ(server_->num_sessions(), 1u);
  server_->CloseSession(old);
  EXPECT_EQ(server_->num_sessions(), 1u);
  server_->CloseSession(grant->session_id);
  EXPECT_EQ(server_->num_sessions(), 0u);
}

TEST_F(AttentionServerTest, SessionsAreBounded) {
  absl::Status status;
  for (size_t i = 0; i <= SessionTable::kMaxSessions && status.ok(); ++i) {
    status = server_->OpenSession(fmt::format("w{}", i), "nowhere").status();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server_->num_sessions(), SessionTable::kMaxSessions);
}

TEST_F(AttentionServerTest, IdleSessionsEnd) {
  Start(4u << 20, {}, 5 * kNsPerS);
  AlignedBuffer<std::byte> payload(kHeartbeatPayloadBytes);
  WriteHeartbeat({}, payload.span());
  clock_.AdvanceNs(4 * kNsPerS);
  worker_->Send(worker_->Header(FrameType::kHeartbeat), payload.span());
  Settle();
  clock_.AdvanceNs(4 * kNsPerS);
  Settle();
  EXPECT_EQ(server_->num_sessions(), 1u);
  clock_.AdvanceNs(2 * kNsPerS);
  Settle();
  EXPECT_EQ(server_->num_sessions(), 0u);
}

TEST_F(AttentionServerTest, ShardsAreOpenedOnceAndClosedIdempotently) {
  const uint64_t free_bytes = server_->free_bytes();
  const ShardSpec spec = MakeSpec(1, kShape, 100);
  const auto reserved = server_->OpenShard(spec);
  ASSERT_TRUE(reserved.ok());
  EXPECT_EQ(server_->free_bytes(), free_bytes - *reserved);
  EXPECT_EQ(metrics_.kv_used_bytes.value(), *reserved);
  EXPECT_EQ(*server_->OpenShard(spec), *reserved);
  ShardSpec other = spec;
  other.capacity_tokens = 101;
  EXPECT_EQ(server_->OpenShard(other).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(server_->CloseShard(spec.shard_id, Epoch(0)).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(server_->CloseShard(spec.shard_id, Epoch(1)).ok());
  EXPECT_TRUE(server_->CloseShard(spec.shard_id, Epoch(1)).ok());
  EXPECT_EQ(server_->free_bytes(), free_bytes);
  EXPECT_EQ(metrics_.kv_shards.value(), 0);
  EXPECT_FALSE(server_->DropOrphan(spec.shard_id));
}

TEST_F(AttentionServerTest, AFullPoolIsResourceExhausted) {
  Start(256 << 10);
  const auto shard = server_->OpenShard(MakeSpec(1, kShape, 100000));
  EXPECT_EQ(shard.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server_->shards().size(), 0u);
}

TEST_F(AttentionServerTest, GeometryThatTheKernelDoesNotServeIsInvalid) {
  for (const AttentionShape shape : {AttentionShape{130, 1, 64}, AttentionShape{4, 2, 0}}) {
    EXPECT_EQ(server_->OpenShard(MakeSpec(1, shape, 10)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  if (server_->kernel_name() != "scalar") {
    const absl::Status status = server_->OpenShard(MakeSpec(1, {4, 2, 60}, 10)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("multiples of 8"));
  }
}

TEST_F(AttentionServerTest, BadOptionsAreErrors) {
  const auto create = [&](AttentionServerOptions options) {
    return AttentionServer::Create(options, plane_.get(), &clock_, nullptr).status().code();
  };
  AttentionServerOptions good;
  good.kv_pool_bytes = 1 << 20;
  EXPECT_EQ(create(good), absl::StatusCode::kOk);
  AttentionServerOptions bad = good;
  bad.extent_bytes = 5000;
  EXPECT_EQ(create(bad), absl::StatusCode::kInvalidArgument);
  bad = good;
  bad.kv_pool_bytes = 10;
  EXPECT_EQ(create(bad), absl::StatusCode::kInvalidArgument);
  bad = good;
  bad.kernel = "nope";
  EXPECT_EQ(create(bad), absl::StatusCode::kNotFound);
  bad = good;
  bad.num_threads = 0;
  EXPECT_EQ(create(bad), absl::StatusCode::kInvalidArgument);
  bad = good;
  bad.kv_pool_bytes = uint64_t{1} << 50;
  EXPECT_EQ(create(bad), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tributary
