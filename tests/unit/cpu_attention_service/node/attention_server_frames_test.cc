// What the node answers to each frame.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cpu_attention_service/node/attention_server.h"
#include "tests/unit/cpu_attention_service/node/attention_server_fixture.h"

namespace tributary {
namespace {

using testing::AttentionServerTest;
using testing::kScale;
using testing::kShape;
using testing::LayerKv;
using testing::MakeSpec;
using testing::RandomLayerKv;
using testing::Received;

TEST_F(AttentionServerTest, AnswersAQueryOverTwoShards) {
  LayerKv kv_a, kv_b;
  const ShardSpec a = StoredShard(1, 200, &kv_a);
  const ShardSpec b = StoredShard(2, 90, &kv_b);
  const std::vector<float> q = RandomQ(2);
  worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({Entry(a, 0, 200), Entry(b, 10, 80)}, q));
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

// bf16 on the way, quantised in the shard: near the truth, and counted.
TEST_F(AttentionServerTest, QuantisesWhatItStores) {
  ShardSpec spec = MakeSpec(1, kShape, 300);
  const LayerKv kv = RandomLayerKv(spec, 300, random_);
  const std::vector<std::byte> spill = SpillPayload(spec, kv, 0, 300);
  spec.k_dtype = DType::kInt8;
  spec.v_dtype = DType::kFp8E4m3;
  ASSERT_TRUE(server_->OpenShard(spec, worker_->identity()).ok());
  worker_->Send(worker_->Header(FrameType::kSpill), spill);
  Settle();
  AckBody ack;
  ASSERT_EQ(DecodeAck(Take(FrameType::kAck).payload, &ack), FrameError::kOk);
  ASSERT_EQ(ack.stored_tokens, 300u);
  const std::vector<float> q = RandomQ();
  worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({Entry(spec, 0, 300)}, q));
  Settle();
  PartialFrameView view;
  const Received frame = Take(FrameType::kPartial);
  ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
  ASSERT_EQ(view.entry(0).status, 0u);
  ShardSpec exact = spec;
  exact.k_dtype = exact.v_dtype = DType::kBf16;
  const ReferencePartial expected = testing::Reference(exact, kv, q, {0, 300}, kScale);
  for (size_t d = 0; d < expected.out.size(); ++d) {
    ASSERT_NEAR(ReadAt<float>(view.out(view.entry(0)), d * 4), expected.out[d], 0.05);
  }
  for (size_t h = 0; h < expected.lse_ln.size(); ++h) {
    ASSERT_NEAR(ReadAt<float>(view.lse_ln(view.entry(0)), h * 4), expected.lse_ln[h], 0.02);
  }
  EXPECT_EQ(metrics_.quantised_tokens.value(), 300);
  EXPECT_EQ(metrics_.attended_tokens.value(), 300);
}

TEST_F(AttentionServerTest, AStripeAnswersForItsOwnTokens) {
  ShardSpec spec = MakeSpec(1, kShape, 64);
  spec.stripe = {100, 16, 2, 1};  // tokens [116, 132), [148, 164), ...
  ASSERT_TRUE(server_->OpenShard(spec, worker_->identity()).ok());
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
  ASSERT_TRUE(server_->OpenShard(empty, worker_->identity()).ok());
  const std::vector<QueryEntry> entries = {Entry(unknown, 0, 100), Entry(stale, 0, 100), wrong_heads,
                                           Entry(empty, 0, 1),     Entry(good, 0, 100),  Entry(empty, 0, 0)};
  const std::vector<float> q = RandomQ(6);
  worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload(entries, q));
  Settle();
  const Received frame = Take(FrameType::kPartial);
  PartialFrameView view;
  ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
  const FrameError expected[] = {FrameError::kUnknownShard, FrameError::kStaleEpoch, FrameError::kBadGeometry,
                                 FrameError::kNotStored,    FrameError::kOk,         FrameError::kOk};
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
  worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({Entry(spec, 0, 10)}, RandomQ(), 32));
  worker_->Send(worker_->Header(FrameType::kQuery, 2), QueryPayload({Entry(spec, 0, 10)}, RandomQ()));
  worker_->Send(worker_->Header(FrameType::kQuery, 1), QueryPayload({Entry(spec, 0, 10)}, RandomQ()));
  Settle();
  for (FrameError expected : {FrameError::kBadGeometry, FrameError::kOutOfRange, FrameError::kNotStored}) {
    const Received frame = Take(FrameType::kPartial);
    PartialFrameView view;
    ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
    EXPECT_EQ(static_cast<FrameError>(view.entry(0).status), expected);
  }
}

TEST_F(AttentionServerTest, SpillsMayComeTwiceAndOutOfOrder) {
  const ShardSpec spec = MakeSpec(1, kShape, 64);
  ASSERT_TRUE(server_->OpenShard(spec, worker_->identity()).ok());
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
  ASSERT_TRUE(server_->OpenShard(spec, worker_->identity()).ok());
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
    if (seal) SealFrame(worker_->grant().keys.header, header, payload.span());
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
  AlignedBuffer<std::byte> heartbeat(kHeartbeatPayloadBytes);
  WriteHeartbeat({}, heartbeat.span());
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 10, &kv);
  std::vector<std::byte> query = QueryPayload({Entry(spec, 0, 10)}, RandomQ());
  query.erase(query.end() - 4, query.end());
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

// Whatever bit of a payload changes on the way: the frame does nothing, and its sender knows at once.
TEST_F(AttentionServerTest, DamagedPayloadsAreRefusedWithAnError) {
  for (const bool with_mac : {false, true}) {
    data_plane_mac_ = with_mac;
    Start();
    LayerKv kv;
    const ShardSpec spec = StoredShard(1, 8, &kv);
    const LayerKv other_kv = RandomLayerKv(spec, 16, random_);
    const std::vector<std::byte> query = QueryPayload({Entry(spec, 0, 8)}, RandomQ());
    const std::vector<std::byte> spill = SpillPayload(spec, other_kv, 0, 4);
    const double rejected_before = Rejected(FrameError::kBadPayload);
    const uint64_t num_before = server_->shards()[0].stored_tokens;
    size_t num_sent = 0;
    for (size_t bit = 0; bit < spill.size() * 8; bit += bit < 600 ? 1 : 97, ++num_sent) {
      worker_->SendDamaged(worker_->Header(FrameType::kSpill), spill, bit);
      Settle();
      ASSERT_EQ(TakeError(), FrameError::kBadPayload) << "bit " << bit;
    }
    for (size_t bit = 0; bit < query.size() * 8; bit += bit < 600 ? 1 : 97, ++num_sent) {
      worker_->SendDamaged(worker_->Header(FrameType::kQuery), query, bit);
      Settle();
      ASSERT_EQ(TakeError(), FrameError::kBadPayload) << "bit " << bit;
    }
    EXPECT_EQ(Rejected(FrameError::kBadPayload), rejected_before + static_cast<double>(num_sent));
    EXPECT_EQ(server_->shards()[0].stored_tokens, num_before);
    EXPECT_EQ(metrics_.requests[0].value(), 0);
    EXPECT_TRUE(worker_->received().empty());
  }
}

TEST_F(AttentionServerTest, ADamagedErrorFrameIsCountedAndNotAnswered) {
  const std::string text = "the worker refused frame 3";
  std::vector<std::byte> payload(ErrorPayloadBytes(text));
  WriteError({.error = static_cast<uint32_t>(FrameError::kBadPayload), .rejected_frame_seq = 3}, text, payload);
  worker_->SendDamaged(worker_->Header(FrameType::kError), payload, 13);
  Settle();
  EXPECT_EQ(Rejected(FrameError::kBadPayload), 1);
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
      payload[random_() % std::min<size_t>(payload.size(), 80)] = static_cast<std::byte>(byte(random_));
    }
    if (random_() % 4 == 0) payload.resize(random_() % payload.size());
    worker_->Send(
        worker_->Header(is_query ? FrameType::kQuery : FrameType::kSpill, static_cast<uint16_t>(random_() % 3)),
        payload);
    Settle();
    worker_->received().clear();
  }
  EXPECT_EQ(Spill(spec, kv, 0, 40).stored_tokens, 40u);
}

}  // namespace
}  // namespace tributary
