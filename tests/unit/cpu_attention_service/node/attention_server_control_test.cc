// Sessions, shards, limits and options of the node.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cpu_attention_service/node/answer_sender.h"
#include "cpu_attention_service/node/attention_server.h"
#include "cpu_attention_service/node/session_table.h"
#include "fmt/format.h"
#include "tests/unit/cpu_attention_service/node/attention_server_fixture.h"

namespace tributary {
namespace {

using testing::AttentionServerTest;
using testing::FakeWorker;
using ::testing::HasSubstr;
using testing::kShape;
using testing::LayerKv;
using testing::MakeSpec;

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
  ASSERT_TRUE(server_->OpenShard(spec, worker_->identity()).ok());
  EXPECT_EQ(Spill(spec, kv, 0, 10).stored_tokens, 10u);
}

TEST_F(AttentionServerTest, AWorkerThatConnectsAgainReplacesItsSession) {
  const SessionId old = worker_->grant().session_id;
  auto grant = server_->OpenSession({"worker1", 1}, "worker1");
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
    status = server_->OpenSession({fmt::format("w{}", i), 1}, "nowhere").status();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server_->num_sessions(), SessionTable::kMaxSessions);
}

TEST_F(AttentionServerTest, IdleSessionsEnd) {
  Start(4u << 20, {}, 5 * kNsPerS);
  const auto wait = [this](int64_t seconds) {
    for (int64_t i = 0; i < seconds * 10; ++i) {
      clock_.AdvanceNs(kNsPerS / 10);
      Settle();
    }
  };
  AlignedBuffer<std::byte> payload(kHeartbeatPayloadBytes);
  WriteHeartbeat({}, payload.span());
  wait(4);
  worker_->Send(worker_->Header(FrameType::kHeartbeat), payload.span());
  wait(4);
  EXPECT_EQ(server_->num_sessions(), 1u);
  wait(2);
  EXPECT_EQ(server_->num_sessions(), 0u);
}

TEST_F(AttentionServerTest, ATimeInWhichTheNodeStoodStillEndsNoSession) {
  Start(4u << 20, {}, 5 * kNsPerS);
  Settle();
  clock_.AdvanceNs(3600 * kNsPerS);
  Settle();
  EXPECT_EQ(server_->num_sessions(), 1u);
}

TEST_F(AttentionServerTest, ShardsAreOpenedOnceAndClosedIdempotently) {
  const uint64_t free_bytes = server_->free_bytes();
  const ShardSpec spec = MakeSpec(1, kShape, 100);
  const auto reserved = server_->OpenShard(spec, worker_->identity());
  ASSERT_TRUE(reserved.ok());
  EXPECT_EQ(server_->free_bytes(), free_bytes - *reserved);
  EXPECT_EQ(metrics_.kv_used_bytes.value(), *reserved);
  EXPECT_EQ(*server_->OpenShard(spec, worker_->identity()), *reserved);
  ShardSpec other = spec;
  other.capacity_tokens = 101;
  EXPECT_EQ(server_->OpenShard(other, worker_->identity()).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(server_->CloseShard(spec.shard_id, Epoch(0)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(server_->CloseShard(spec.shard_id, Epoch(1)).ok());
  EXPECT_TRUE(server_->CloseShard(spec.shard_id, Epoch(1)).ok());
  EXPECT_EQ(server_->free_bytes(), free_bytes);
  EXPECT_EQ(metrics_.kv_shards.value(), 0);
  EXPECT_FALSE(server_->DropOrphan(spec.shard_id));
}

TEST_F(AttentionServerTest, AFullPoolIsResourceExhausted) {
  Start(256 << 10);
  const auto shard = server_->OpenShard(MakeSpec(1, kShape, 100000), worker_->identity());
  EXPECT_EQ(shard.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server_->shards().size(), 0u);
}

TEST_F(AttentionServerTest, GeometryThatTheKernelDoesNotServeIsInvalid) {
  for (const AttentionShape shape : {AttentionShape{130, 1, 64}, AttentionShape{4, 2, 0}}) {
    EXPECT_EQ(server_->OpenShard(MakeSpec(1, shape, 10), worker_->identity()).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  const absl::Status status = server_->OpenShard(MakeSpec(1, {130, 1, 60}, 10), worker_->identity()).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("130"));
  EXPECT_TRUE(server_->OpenShard(MakeSpec(1, {64, 1, 61}, 10), worker_->identity()).ok());
}

TEST_F(AttentionServerTest, BadOptionsAreErrors) {
  const auto create = [&](AttentionServerOptions options) {
    return AttentionServer::Create(options, plane_.get(), &clock_, nullptr).status().code();
  };
  AttentionServerOptions good;
  good.arena.bytes = 1 << 20;
  EXPECT_EQ(create(good), absl::StatusCode::kOk);
  AttentionServerOptions bad = good;
  bad.extent_bytes = 5000;
  EXPECT_EQ(create(bad), absl::StatusCode::kInvalidArgument);
  bad.extent_bytes = size_t{1} << 32;
  const absl::Status too_large = AttentionServer::Create(bad, plane_.get(), &clock_, nullptr).status();
  EXPECT_THAT(std::string(too_large.message()), HasSubstr("extent_bytes is 4294967296"));
  bad = good;
  bad.arena.bytes = 10;
  EXPECT_EQ(create(bad), absl::StatusCode::kInvalidArgument);
  bad = good;
  bad.kernel = "nope";
  EXPECT_EQ(create(bad), absl::StatusCode::kNotFound);
  bad = good;
  bad.num_threads = 0;
  EXPECT_EQ(create(bad), absl::StatusCode::kInvalidArgument);
  bad = good;
  bad.arena.bytes = uint64_t{1} << 50;
  EXPECT_EQ(create(bad), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tributary
