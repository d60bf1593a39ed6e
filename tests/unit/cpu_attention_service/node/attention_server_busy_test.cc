// What the node does with frames that come while it attends to a query.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "cpu_attention_service/node/attention_server.h"
#include "tests/unit/cpu_attention_service/node/attention_server_fixture.h"

namespace tributary {
namespace {

using testing::kShape;
using testing::LayerKv;
using testing::MakeSpec;
using testing::RandomLayerKv;
using testing::Received;

// A data plane that tells of every poll, before it happens.
class PollHook final : public DataPlane {
 public:
  explicit PollHook(std::unique_ptr<DataPlane> plane) : plane_(std::move(plane)) {}
  std::function<void()> before_poll = [] {};

  const TransportInfo& info() const override { return plane_->info(); }
  absl::StatusOr<PeerId> Connect(std::string_view address) override { return plane_->Connect(address); }
  void Disconnect(PeerId peer) override { plane_->Disconnect(peer); }
  absl::StatusOr<FrameBuffer> AllocateFrame(size_t payload_bytes) override {
    return plane_->AllocateFrame(payload_bytes);
  }
  absl::Status Send(PeerId peer, FrameBuffer frame, SendClass send_class) override {
    return plane_->Send(peer, std::move(frame), send_class);
  }
  int Poll(FrameHandler& handler) override {
    before_poll();
    return plane_->Poll(handler);
  }
  void WaitForEvent(int64_t timeout_ns) override { plane_->WaitForEvent(timeout_ns); }
  void Wake() override { plane_->Wake(); }
  DataPlaneCounters counters() const override { return plane_->counters(); }

 private:
  std::unique_ptr<DataPlane> plane_;
};

class BusyServerTest : public testing::AttentionServerTest {
 protected:
  static constexpr uint32_t kManyTokens = 10'000;  // several MiB: several polls within the step

  void SetUp() override {
    AttentionServerTest::SetUp();
    Start(32u << 20, {}, 0, /*num_threads=*/1, [this](std::unique_ptr<DataPlane> plane) {
      auto hook = std::make_unique<PollHook>(std::move(plane));
      hook_ = hook.get();
      return hook;
    });
    long_spec_ = StoredShard(1, kManyTokens, &long_kv_);
  }

  // Sends a query that takes long, and calls `during` when the node polls for the second time: in
  // the midst of the step.
  void QueryAnd(const std::function<void()>& during) {
    long_q_ = RandomQ();
    worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({Entry(long_spec_, 0, kManyTokens)}, long_q_));
    int polls = 0;
    hook_->before_poll = [&] {
      if (++polls == 2) during();
    };
    server_->Poll();
    hook_->before_poll = [] {};
    EXPECT_GE(polls, 2);
    Settle();
  }

  void ExpectLongPartial() {
    PartialFrameView view;
    const Received frame = Take(FrameType::kPartial);
    ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
    ExpectPartial(view, 0, long_spec_, long_kv_, long_q_, {0, kManyTokens});
  }

  PollHook* hook_ = nullptr;
  ShardSpec long_spec_;
  LayerKv long_kv_;
  std::vector<float> long_q_;
};

TEST_F(BusyServerTest, HeartbeatsOvertakeTheStep) {
  QueryAnd([&] {
    AlignedBuffer<std::byte> payload(kHeartbeatPayloadBytes);
    WriteHeartbeat({.sent_ns = 123}, payload.span());
    worker_->Send(worker_->Header(FrameType::kHeartbeat), payload.span());
  });
  Take(FrameType::kHeartbeat);
  ExpectLongPartial();
}

// In order: the second query finds what was spilled before it.
TEST_F(BusyServerTest, SpillsAndQueriesWaitForTheStep) {
  const ShardSpec spec = MakeSpec(2, kShape, 50);
  ASSERT_TRUE(server_->OpenShard(spec, worker_->identity()).ok());
  const LayerKv kv = RandomLayerKv(spec, 50, random_);
  const std::vector<float> q = RandomQ();
  QueryAnd([&] {
    worker_->Send(worker_->Header(FrameType::kSpill), SpillPayload(spec, kv, 0, 50));
    worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({Entry(spec, 0, 50)}, q));
  });
  ExpectLongPartial();
  AckBody ack;
  ASSERT_EQ(DecodeAck(Take(FrameType::kAck).payload, &ack), FrameError::kOk);
  EXPECT_EQ(ack.stored_tokens, 50u);
  PartialFrameView view;
  const Received frame = Take(FrameType::kPartial);
  ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
  ExpectPartial(view, 0, spec, kv, q, {0, 50});
}

// A worker that is lost during the step gets no answer, and neither do its waiting queries.
TEST_F(BusyServerTest, AWorkerMayBeLostDuringTheStep) {
  QueryAnd([&] {
    worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({Entry(long_spec_, 0, 10)}, RandomQ()));
    network_.Kill(fmt::format("worker{}", num_workers_));
  });
  EXPECT_EQ(server_->num_sessions(), 0u);
  EXPECT_TRUE(worker_->received().empty());
}

}  // namespace
}  // namespace tributary
