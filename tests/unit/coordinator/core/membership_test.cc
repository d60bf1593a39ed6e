#include "coordinator/core/membership.h"

#include "base/clock.h"
#include "base/limits.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

NodeDescription CpuNode(const std::string& id, uint64_t incarnation = 1) {
  NodeDescription node;
  node.node_id = id;
  node.incarnation = incarnation;
  node.control_address = "127.0.0.1:1";
  node.protocol_version = 1;
  node.kv_capacity_bytes = 1 << 20;
  node.extent_bytes = 4096;
  return node;
}

NodeDescription Worker(const std::string& id, uint32_t head_dim = 16) {
  NodeDescription node;
  node.node_id = id;
  node.incarnation = 1;
  node.role = NodeRole::kGpuWorker;
  node.protocol_version = 1;
  node.geometry = {{4, 2, head_dim}, 2, 256, "tiny"};
  return node;
}

class MembershipTest : public testing::Test {
 protected:
  absl::Status Register(const NodeDescription& node) { return membership_.Register(node, now_ns_, &changes_); }
  absl::Status Heartbeat(const std::string& id, uint64_t incarnation = 1, bool draining = false) {
    return membership_.Heartbeat(id, incarnation, 0, 0, draining, now_ns_, &changes_);
  }
  void Advance(int64_t ms) {
    now_ns_ += ms * kNsPerMs;
    membership_.Tick(now_ns_, &changes_);
  }
  MemberState State(const std::string& id) { return membership_.Find(id)->state; }

  Membership membership_{{1, 2 * kNsPerS, 4 * kNsPerS, 60 * kNsPerS}};
  int64_t now_ns_ = kNsPerS;
  std::vector<MemberChange> changes_;
};

TEST_F(MembershipTest, MembersAreBoundedUntilDeadOnesAreForgotten) {
  for (size_t i = 0; i < limits::kMaxMembers; ++i) ASSERT_TRUE(Register(CpuNode(fmt::format("n{}", i))).ok());
  const absl::Status status = Register(CpuNode("one-more"));
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("'one-more' would be member 1025; a cluster has at most 1024"));
  EXPECT_EQ(membership_.Find("one-more"), nullptr);
  membership_.Leave("n7", 1, &changes_);
  EXPECT_TRUE(Register(CpuNode("n7", 2)).ok());  // who is known may come back
  Advance(60'000);                               // they die,
  changes_.clear();
  Advance(1);  // and are forgotten
  EXPECT_EQ(changes_.size(), limits::kMaxMembers);
  EXPECT_TRUE(changes_[0].is_gone);
  EXPECT_TRUE(Register(CpuNode("one-more")).ok());
}

TEST_F(MembershipTest, SilenceMakesSuspectThenDeadAndHeartbeatsLeadBack) {
  ASSERT_TRUE(Register(CpuNode("a")).ok());
  Advance(1999);
  EXPECT_EQ(State("a"), MemberState::kAlive);
  Advance(1);
  EXPECT_EQ(State("a"), MemberState::kSuspect);
  EXPECT_TRUE(Heartbeat("a").ok());
  EXPECT_EQ(State("a"), MemberState::kAlive);
  changes_.clear();
  Advance(4000);
  EXPECT_EQ(State("a"), MemberState::kDead);
  ASSERT_EQ(changes_.size(), 1u);
  EXPECT_FALSE(changes_[0].is_gone) << "it may come back with all that it has";
  EXPECT_TRUE(Heartbeat("a").ok());
  EXPECT_EQ(State("a"), MemberState::kSuspect);  // half open
  EXPECT_TRUE(Heartbeat("a").ok());
  EXPECT_EQ(State("a"), MemberState::kAlive);
}

TEST_F(MembershipTest, TheEpochRisesWithEveryChangeAndOnlyThen) {
  const uint64_t before = membership_.epoch();
  ASSERT_TRUE(Register(CpuNode("a")).ok());
  EXPECT_EQ(membership_.epoch(), before + 1);
  ASSERT_TRUE(Register(CpuNode("a")).ok());
  ASSERT_TRUE(Heartbeat("a").ok());
  Advance(100);
  EXPECT_EQ(membership_.epoch(), before + 1);
  Advance(3000);
  EXPECT_EQ(membership_.epoch(), before + 2);
}

TEST_F(MembershipTest, ARestartReplacesAndFencesTheOldIncarnation) {
  ASSERT_TRUE(Register(CpuNode("a", 1)).ok());
  changes_.clear();
  membership_.Leave("a", 1, &changes_);
  ASSERT_TRUE(Register(CpuNode("a", 2)).ok());
  ASSERT_EQ(changes_.size(), 2u);
  EXPECT_EQ(changes_[0].node.incarnation, 1u);
  EXPECT_EQ(changes_[0].state, MemberState::kDead);
  EXPECT_TRUE(changes_[0].is_gone);
  EXPECT_EQ(changes_[1].node.incarnation, 2u);
  EXPECT_EQ(changes_[1].state, MemberState::kAlive);
  EXPECT_EQ(Heartbeat("a", 1).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Register(CpuNode("a", 1)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(Heartbeat("a", 2).ok());
}

TEST_F(MembershipTest, ANewcomerNeverDisplacesALiveIncumbent) {
  ASSERT_TRUE(Register(CpuNode("a", 1)).ok());
  ASSERT_TRUE(Register(CpuNode("b", 1)).ok());
  ASSERT_TRUE(Register(CpuNode("c", 1)).ok());
  Advance(2000);
  ASSERT_TRUE(Heartbeat("a").ok());
  ASSERT_TRUE(Heartbeat("b", 1, /*draining=*/true).ok());
  Advance(1500);
  membership_.Suspect("a", &changes_);
  ASSERT_EQ(State("b"), MemberState::kDraining);
  ASSERT_EQ(State("c"), MemberState::kSuspect);
  changes_.clear();
  const uint64_t epoch = membership_.epoch();
  for (const char* id : {"a", "b", "c"}) {
    EXPECT_EQ(Register(CpuNode(id, 2)).code(), absl::StatusCode::kAlreadyExists) << id;
  }
  NodeDescription worker = Worker("a");  // nor changes its role
  worker.incarnation = 2;
  const absl::Status status = Register(worker);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(status.message(),
            "node id 'a' belongs to another process, a cpu_attention with incarnation 1 at 127.0.0.1:1, heard of 1.5 s "
            "ago; give this one another --node-id, or stop that one first: 4 s after it was last heard its id is free");
  EXPECT_TRUE(changes_.empty());
  EXPECT_EQ(membership_.epoch(), epoch);
  EXPECT_TRUE(Heartbeat("a").ok());
  EXPECT_EQ(State("a"), MemberState::kAlive);
}

TEST_F(MembershipTest, ASilentIncumbentIsReplacedInTimeWhateverItsState) {
  ASSERT_TRUE(Register(CpuNode("a", 1)).ok());
  ASSERT_TRUE(Heartbeat("a", 1, /*draining=*/true).ok());
  now_ns_ += 3999 * kNsPerMs;  // without a tick, which would find it dead
  EXPECT_EQ(Register(CpuNode("a", 2)).code(), absl::StatusCode::kAlreadyExists);
  now_ns_ += kNsPerMs;
  EXPECT_TRUE(Register(CpuNode("a", 2)).ok());
  EXPECT_EQ(Heartbeat("a", 1).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Register(CpuNode("a", 1)).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(MembershipTest, RefusesOtherVersionsAndGeometriesWithBothValues) {
  NodeDescription node = CpuNode("a");
  node.protocol_version = 7;
  absl::Status status = Register(node);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.ToString(), HasSubstr("version 7"));
  EXPECT_THAT(status.ToString(), HasSubstr("speaks 1"));

  ASSERT_TRUE(Register(Worker("w0")).ok());
  status = Register(Worker("w1", 32));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.ToString(), HasSubstr("head_dim 32"));
  EXPECT_THAT(status.ToString(), HasSubstr("head_dim 16"));
  // The cluster's model goes with its last worker.
  membership_.Leave("w0", 1, &changes_);
  EXPECT_FALSE(membership_.geometry().has_value());
  EXPECT_TRUE(Register(Worker("w1", 32)).ok());
}

TEST_F(MembershipTest, RefusesNodesThatLackWhatTheirRoleNeeds) {
  NodeDescription node = CpuNode("a");
  node.extent_bytes = 5000;
  EXPECT_EQ(Register(node).code(), absl::StatusCode::kInvalidArgument);
  node = CpuNode("");
  EXPECT_EQ(Register(node).code(), absl::StatusCode::kInvalidArgument);
  node = CpuNode("a");
  node.control_address.clear();
  EXPECT_EQ(Register(node).code(), absl::StatusCode::kInvalidArgument);
  node = Worker("w");
  node.geometry.num_layers = 0;
  EXPECT_EQ(Register(node).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(membership_.members().empty());
}

TEST_F(MembershipTest, DrainingAndSuspectedNodesAreNotUsable) {
  ASSERT_TRUE(Register(CpuNode("a")).ok());
  ASSERT_TRUE(Register(CpuNode("b")).ok());
  ASSERT_TRUE(Heartbeat("a", 1, true).ok());
  membership_.Suspect("b", &changes_);
  EXPECT_EQ(State("a"), MemberState::kDraining);
  EXPECT_EQ(State("b"), MemberState::kSuspect);
  EXPECT_FALSE(membership_.Find("a")->usable());
  EXPECT_FALSE(membership_.Find("a")->may_return());
  EXPECT_FALSE(membership_.Find("b")->usable());
  EXPECT_TRUE(membership_.Find("b")->may_return());
}

TEST_F(MembershipTest, TheDeadAreForgottenInTime) {
  ASSERT_TRUE(Register(CpuNode("a", 1)).ok());
  Advance(4000);
  Advance(60'000);
  EXPECT_EQ(membership_.Find("a"), nullptr);
  EXPECT_EQ(Heartbeat("a").code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Register(CpuNode("a", 1)).ok());
}

}  // namespace
}  // namespace tributary
