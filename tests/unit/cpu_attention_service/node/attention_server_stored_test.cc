// What is stored stays what it is: spills with other content are refused, KV whose bytes changed is never attended to.
#include "tests/unit/cpu_attention_service/node/attention_server_fixture.h"

namespace tributary::testing {
namespace {

// Of kShape in bf16: as large as the fixture's extents. A shard of 100 tokens that is opened first has, from the start
// of the arena, tiles 0 and 1 of layer 0's heads 0 and 1, and then those of layer 1.
constexpr size_t kRecordBytes = 16 << 10;

class AttentionServerStoredTest : public AttentionServerTest {
 protected:
  void FlipBit(uint32_t head, uint64_t tile) {
    server_->arena().memory()[(head * 2 + tile) * kRecordBytes + 77] ^= std::byte{0x10};
  }
  // Lets this time pass, in which nothing comes.
  void Idle(int64_t ns) {
    for (int64_t end_ns = clock_.NowNs() + ns; clock_.NowNs() < end_ns;) {
      clock_.AdvanceNs(kNsPerMs);
      server_->Poll();
    }
  }
  PartialEntry Ask(const ShardSpec& spec, uint64_t end, uint16_t layer = 0) {
    worker_->Send(worker_->Header(FrameType::kQuery, layer), QueryPayload({Entry(spec, 0, end)}, RandomQ()));
    Settle();
    const Received frame = Take(FrameType::kPartial);
    PartialFrameView view;
    EXPECT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
    return view.entry(0);
  }
};

TEST_F(AttentionServerStoredTest, OtherContentIsNeverAcknowledged) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 100, &kv);
  EXPECT_EQ(Spill(spec, kv, 0, 100).status, 0u);
  LayerKv other = kv;
  other.v.back() ^= std::byte{1};
  const AckBody ack = Spill(spec, other, 0, 100);
  EXPECT_EQ(static_cast<FrameError>(ack.status), FrameError::kOtherContent);
  EXPECT_EQ(Rejected(FrameError::kOtherContent), 1);
  const std::vector<float> q = RandomQ();
  worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({Entry(spec, 0, 100)}, q));
  Settle();
  const Received frame = Take(FrameType::kPartial);
  PartialFrameView view;
  ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
  ExpectPartial(view, 0, spec, kv, q, {0, 100});
}

TEST_F(AttentionServerStoredTest, ABitThatFlipsBeforeTheFirstReadIsFound) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 100, &kv);
  EXPECT_EQ(Spill(spec, kv, 0, 100, 1).status, 0u);
  FlipBit(1, 1);
  for (int i = 0; i < 2; ++i) {
    const PartialEntry entry = Ask(spec, 100);
    EXPECT_EQ(static_cast<FrameError>(entry.status), FrameError::kCorruptKv);
    EXPECT_EQ(entry.num_kv_heads, 1u);    // which of them
    EXPECT_EQ(entry.covered_tokens, 1u);  // which tile
  }
  EXPECT_EQ(Ask(spec, 64).status, 0u);  // does not read that tile
  EXPECT_EQ(Ask(spec, 100, 1).status, 0u);
  EXPECT_EQ(static_cast<FrameError>(Spill(spec, kv, 64, 100).status), FrameError::kCorruptKv);
  Idle(kNsPerS);
  EXPECT_EQ(metrics_.corrupt_tiles.value(), 1);
  EXPECT_EQ(metrics_.requests[static_cast<size_t>(FrameError::kCorruptKv)].value(), 2);
  EXPECT_EQ(metrics_.checked_read_bytes.value(), 2 * 2 * 2 * kRecordBytes);
}

TEST_F(AttentionServerStoredTest, ABitThatFlipsLaterIsFoundByTheScrub) {
  LayerKv kv;
  const ShardSpec spec = StoredShard(1, 100, &kv);
  EXPECT_EQ(Ask(spec, 100).status, 0u);
  FlipBit(0, 1);
  EXPECT_EQ(Ask(spec, 100).status, 0u);  // what was checked is not checked at each read
  Idle(kNsPerS);
  EXPECT_EQ(static_cast<FrameError>(Ask(spec, 100).status), FrameError::kCorruptKv);
  EXPECT_EQ(metrics_.corrupt_tiles.value(), 1);
  EXPECT_GT(metrics_.scrub_passes.value(), 0);
  EXPECT_GE(metrics_.checked_scrub_bytes.value(), 4 * kRecordBytes);
}

// Only what is new is checked, and the tile that it joins.
TEST_F(AttentionServerStoredTest, WhatWasCheckedIsNotCheckedAgain) {
  const ShardSpec spec = MakeSpec(1, kShape, 2000);
  ASSERT_TRUE(server_->OpenShard(spec, worker_->identity()).ok());
  const LayerKv kv = RandomLayerKv(spec, 2000, random_);
  EXPECT_EQ(Spill(spec, kv, 0, 1000).stored_tokens, 1000u);
  EXPECT_EQ(Ask(spec, 900).status, 0u);
  EXPECT_EQ(Ask(spec, 1000).status, 0u);
  Idle(kNsPerS);
  const double first = metrics_.checked_read_bytes.value();
  EXPECT_EQ(first, 2 * 16 * kRecordBytes);
  EXPECT_EQ(Spill(spec, kv, 1000, 1100).stored_tokens, 1100u);
  EXPECT_EQ(Ask(spec, 1100).status, 0u);
  Idle(kNsPerS);
  EXPECT_EQ(metrics_.checked_read_bytes.value() - first, 2 * 3 * kRecordBytes);
}

}  // namespace
}  // namespace tributary::testing
