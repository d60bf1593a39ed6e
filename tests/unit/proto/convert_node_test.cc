#include "proto/convert_node.h"

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/outside_strings.h"
#include "tests/unit/proto/fill_message.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(ConvertNodeTest, AWorkersDescriptionSurvivesTheRoundTrip) {
  v1::NodeInfo message;
  FillMessage(message);
  message.set_role(v1::NODE_ROLE_GPU_WORKER);
  const absl::StatusOr<NodeDescription> node = NodeFromProto(message);
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ(NodeToProto(*node).DebugString(), message.DebugString());
}

TEST(ConvertNodeTest, ACpuNodeStatesNoModel) {
  NodeDescription node;
  node.node_id = "cpu-0";
  node.extent_bytes = 4096;
  const v1::NodeInfo message = NodeToProto(node);
  EXPECT_EQ(message.role(), v1::NODE_ROLE_CPU_ATTENTION);
  EXPECT_EQ(message.extent_bytes(), 4096u);
  EXPECT_FALSE(message.has_geometry());
}

TEST(ConvertNodeTest, AnUnknownRoleIsRefusedWithItsValue) {
  v1::NodeInfo message;
  message.set_role(static_cast<v1::NodeRole>(17));
  EXPECT_THAT(NodeFromProto(message).status().ToString(), HasSubstr("17"));
  message.set_role(v1::NODE_ROLE_UNSET);
  EXPECT_FALSE(NodeFromProto(message).ok());
}

TEST(ConvertNodeTest, AHeartbeatSurvivesTheRoundTrip) {
  v1::HeartbeatRequest message;
  FillMessage(message);
  EXPECT_EQ(HeartbeatToProto(HeartbeatFromProto(message)).DebugString(), message.DebugString());
}

TEST(ConvertNodeTest, TheStatusNamesMembersAndKeptSequences) {
  ClusterStatus status;
  status.membership_epoch = 4;
  status.running = 5;
  Member member;
  member.node.node_id = "cpu-0";
  member.node.incarnation = 8;
  member.node.control_address = "host:9";
  member.node.kv_capacity_bytes = 1000;
  member.state = MemberState::kSuspect;
  member.last_heard_ns = kNsPerS / 2;
  status.members = {{member, 3, 0, 400}};
  status.kept = {{"chat", SequenceId(3), "gpu-0", 61 * kNsPerS, 100, 1000, 4096, 8192}};
  const v1::StatusResponse message = StatusToProto(status, kNsPerS);
  EXPECT_EQ(message.membership_epoch(), 4u);
  EXPECT_EQ(message.requests_running(), 5u);
  ASSERT_EQ(message.nodes_size(), 1);
  EXPECT_EQ(message.nodes(0).endpoint().incarnation(), 8u);
  EXPECT_EQ(message.nodes(0).endpoint().control_address(), "host:9");
  EXPECT_EQ(message.nodes(0).state(), "suspect");
  EXPECT_EQ(message.nodes(0).capacity_bytes(), 1000u);
  EXPECT_EQ(message.nodes(0).free_bytes(), 400u);
  EXPECT_EQ(message.nodes(0).shards(), 3u);
  EXPECT_NEAR(message.nodes(0).heartbeat_age_s(), 0.5, 1e-9);
  ASSERT_EQ(message.kept_sequences_size(), 1);
  const v1::KeptSequence& kept = message.kept_sequences(0);
  EXPECT_EQ(kept.request_id(), "chat");
  EXPECT_EQ(kept.worker_id(), "gpu-0");
  EXPECT_NEAR(kept.lease_left_s(), 60.0, 1e-9);
  EXPECT_EQ(kept.context_tokens(), 100u);
  EXPECT_EQ(kept.max_context_tokens(), 1000u);
  EXPECT_EQ(kept.resident_bytes(), 4096u);
  EXPECT_EQ(kept.shard_bytes(), 8192u);
}

TEST(ConvertNodeTest, AModelMayHaveAnyName) {
  ModelGeometry geometry;
  geometry.model_name = "latin-\xe9\n";
  EXPECT_EQ(GeometryToProto(geometry).model_name(), "latin-\\xe9\\n");
  geometry.model_name = std::string(255, '\xe9');  // as long as a file's name may be
  v1::ModelGeometry message = GeometryToProto(geometry);
  EXPECT_TRUE(CheckOutsideStrings(message).ok());
  EXPECT_EQ(GeometryToProto(GeometryFromProto(message)).model_name(), message.model_name());
}

}  // namespace
}  // namespace tributary
