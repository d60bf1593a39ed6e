#include "cluster/shard_placement.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

ShardPlacement Held(std::vector<NodeEndpoint> holders) {
  ShardPlacement placement;
  placement.spec.shard_id = ShardId(7);
  placement.spec.sequence_id = SequenceId(3);
  placement.holders = std::move(holders);
  return placement;
}

TEST(ShardPlacementTest, OneOrMoreHoldersAreFine) {
  EXPECT_TRUE(ValidateHolders(Held({{"a", 1, "a:1"}})).ok());
  EXPECT_TRUE(ValidateHolders(Held({{"a", 1, "a:1"}, {"b", 1, "b:1"}})).ok());
}

TEST(ShardPlacementTest, AnEmptyListIsRefused) {
  const absl::Status status = ValidateHolders(Held({}));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(status.message(), HasSubstr("shard 7 of sequence 3 has no holder"));
}

TEST(ShardPlacementTest, ANodeHoldsAShardOnce) {
  // Another incarnation is the same node: only one of them lives.
  const absl::Status status = ValidateHolders(Held({{"a", 1, "a:1"}, {"b", 1, "b:1"}, {"a", 2, "a:2"}}));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(status.message(), HasSubstr("node 'a' as a holder twice"));
}

TEST(ShardPlacementTest, AHolderHasAName) {
  EXPECT_THAT(ValidateHolders(Held({{"", 1, "a:1"}})).message(), HasSubstr("without a node id"));
}

TEST(ShardPlacementTest, ALongListIsRefused) {
  ShardPlacement placement = Held({});
  for (uint32_t i = 0; i <= kMaxHolders; ++i) placement.holders.push_back({"node-" + std::to_string(i), 1, ""});
  EXPECT_THAT(ValidateHolders(placement).message(), HasSubstr("has 9 holders"));
  placement.holders.pop_back();
  EXPECT_TRUE(ValidateHolders(placement).ok());
}

TEST(ShardPlacementTest, AHolderIsFoundByItsNode) {
  const ShardPlacement placement = Held({{"a", 1, "a:1"}, {"b", 4, "b:1"}});
  EXPECT_EQ(placement.FindHolder("b")->incarnation, 4u);
  EXPECT_EQ(placement.FindHolder("c"), nullptr);
}

}  // namespace
}  // namespace tributary
