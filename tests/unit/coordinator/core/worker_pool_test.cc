#include "coordinator/core/worker_pool.h"

#include "base/clock.h"
#include "base/limits.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

const StreamId kStream(1), kOther(2);

NodeDescription Worker(const std::string& id, uint32_t max_context_tokens = 0) {
  NodeDescription node;
  node.node_id = id;
  node.incarnation = 7;
  node.role = NodeRole::kGpuWorker;
  node.kv_capacity_bytes = 1000;
  node.geometry = {{4, 2, 16}, 2, 256, "tiny"};
  node.max_context_tokens = max_context_tokens;
  node.max_batch = 2;
  return node;
}

class WorkerPoolTest : public testing::Test {
 protected:
  void Add(StreamId stream, const NodeDescription& node) {
    std::vector<MemberChange> changes;
    ASSERT_TRUE(membership_.Register(node, 0, &changes).ok());
    pool_.Add(stream, node);
  }
  Membership membership_{{.protocol_version = 0, .suspect_after_ns = 2, .dead_after_ns = 4, .forget_after_ns = 9}};
  WorkerPool pool_;
};

TEST_F(WorkerPoolTest, WhatSequencesReserveIsCountedUntilTheyLeave) {
  Add(kStream, Worker("gpu-0"));
  pool_.Assign(kStream, 300);
  pool_.Assign(kStream, 200);
  ASSERT_EQ(pool_.Rooms(membership_, 0).size(), 1u);
  EXPECT_EQ(pool_.Rooms(membership_, 0)[0].available_bytes, 500u);
  EXPECT_EQ(pool_.Rooms(membership_, 0)[0].sequences, 2u);
  pool_.Release(kStream, SequenceId(1), 300);
  EXPECT_EQ(pool_.Rooms(membership_, 0)[0].available_bytes, 800u);
  EXPECT_DEATH(pool_.Release(kStream, SequenceId(2), 300), "resident_bytes");
}

TEST_F(WorkerPoolTest, AWorkerIsFoundByStreamAndByNode) {
  Add(kStream, Worker("gpu-0"));
  EXPECT_EQ(pool_.StreamOf("gpu-0"), kStream);
  EXPECT_EQ(pool_.StreamOf("gpu-1"), std::nullopt);
  EXPECT_EQ(pool_.Find(kOther), nullptr);
  pool_.Heard(kStream, 5);
  pool_.Heard(kOther, 5);
  EXPECT_EQ(pool_.Find(kStream)->heard_ns, 5);
  EXPECT_DEATH(pool_.Add(kOther, Worker("gpu-0")), "StreamOf");
  pool_.Remove(kStream);
  EXPECT_EQ(pool_.Find(kStream), nullptr);
}

TEST_F(WorkerPoolTest, LimitsAreTheLowestOfThoseThatMayReturn) {
  EXPECT_FALSE(pool_.Limits(membership_).has_value());
  Add(kStream, Worker("gpu-0", 4000));
  Add(kOther, Worker("gpu-1", 3000));
  EXPECT_EQ(pool_.Limits(membership_)->max_context_tokens, 3000u);
  std::vector<MemberChange> changes;
  ASSERT_TRUE(membership_.Heartbeat("gpu-1", 7, 0, 0, /*draining=*/true, 1, &changes).ok());
  EXPECT_EQ(pool_.Limits(membership_)->max_context_tokens, 4000u);
  EXPECT_EQ(pool_.Rooms(membership_, 0).size(), 1u);
  membership_.Tick(3, &changes);  // gpu-0 is suspect: counted, but not usable
  ASSERT_EQ(pool_.Rooms(membership_, 0).size(), 1u);
  EXPECT_FALSE(pool_.Rooms(membership_, 0)[0].usable);
}

TEST_F(WorkerPoolTest, StepsComeByWorkerUntilThePipelineIsFull) {
  Add(kStream, Worker("gpu-0"));
  Add(kOther, Worker("gpu-1"));
  pool_.Find(kStream)->scheduler.Join(SequenceId(1), 10);
  pool_.Find(kOther)->scheduler.Join(SequenceId(2), 10);
  const std::vector<WorkerPool::DueStep> due = pool_.TakeSteps(0);
  ASSERT_EQ(due.size(), 2 * limits::kMaxStepsInFlight);
  EXPECT_EQ(due.front().stream, kStream);
  EXPECT_EQ(due.back().stream, kOther);
  EXPECT_TRUE(pool_.TakeSteps(0).empty());
}

}  // namespace
}  // namespace tributary
