#include "coordinator/core/shard_ledger.h"

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Next = ShardLedger::Next;

const ShardId kShard(5);

class ShardLedgerTest : public testing::Test {
 protected:
  void Reserve(ShardId id = kShard, const std::string& node = "a") {
    ledger_.Reserve({id, SequenceId(9), Epoch(4), {node, 1, node + ":1"}, 100});
  }
  ShardLedger ledger_{3 * kNsPerS, kNsPerS};
};

TEST_F(ShardLedgerTest, OpenCloseAndTheMemoryIsBack) {
  Reserve();
  EXPECT_EQ(ledger_.UsedBytes("a"), 100u);
  EXPECT_TRUE(ledger_.OnOpened(kShard, "a", absl::OkStatus()).opened);
  EXPECT_EQ(ledger_.Close(kShard, "a"), Next::kSendClose);
  EXPECT_EQ(ledger_.Close(kShard, "a"), Next::kNothing);
  EXPECT_EQ(ledger_.UsedBytes("a"), 100u);
  ledger_.OnClosed(kShard, "a", absl::OkStatus(), 0);
  EXPECT_EQ(ledger_.UsedBytes("a"), 0u);
  EXPECT_EQ(ledger_.size(), 0u);
}

TEST_F(ShardLedgerTest, ACloseBeforeTheOpenWasAnsweredWaitsForIt) {
  Reserve();
  EXPECT_EQ(ledger_.Close(kShard, "a"), Next::kNothing);
  const auto result = ledger_.OnOpened(kShard, "a", absl::OkStatus());
  EXPECT_FALSE(result.opened);
  EXPECT_EQ(result.next, Next::kSendClose);
}

TEST_F(ShardLedgerTest, ARefusedOpenIsGoneAnUnansweredOneIsClosed) {
  Reserve(ShardId(1));
  Reserve(ShardId(2));
  EXPECT_EQ(ledger_.OnOpened(ShardId(1), "a", absl::ResourceExhaustedError("")).next, Next::kNothing);
  EXPECT_EQ(ledger_.Find(ShardId(1), "a"), nullptr);
  EXPECT_EQ(ledger_.OnOpened(ShardId(2), "a", absl::DeadlineExceededError("")).next, Next::kSendClose);
  EXPECT_NE(ledger_.Find(ShardId(2), "a"), nullptr);
}

TEST_F(ShardLedgerTest, AFailedCloseIsDueAgain) {
  Reserve();
  ledger_.OnOpened(kShard, "a", absl::OkStatus());
  ledger_.Close(kShard, "a");
  ledger_.OnClosed(kShard, "a", absl::UnavailableError(""), 0);
  EXPECT_THAT(ledger_.TakeDueCloses(kNsPerS - 1), IsEmpty());
  EXPECT_THAT(ledger_.TakeDueCloses(kNsPerS), ElementsAre(testing::Field(&Holding::shard_id, kShard)));
  EXPECT_THAT(ledger_.TakeDueCloses(9 * kNsPerS), IsEmpty());
  ledger_.OnClosed(kShard, "a", absl::FailedPreconditionError("later epoch"), 0);
  EXPECT_EQ(ledger_.size(), 0u);
}

TEST_F(ShardLedgerTest, ADeadNodesShardsAreDropped) {
  Reserve(ShardId(1), "a");
  Reserve(ShardId(2), "b");
  ledger_.DropNode("a");
  EXPECT_EQ(ledger_.size(), 1u);
  EXPECT_EQ(ledger_.UsedBytes("a"), 0u);
  EXPECT_EQ(ledger_.OnOpened(ShardId(1), "a", absl::OkStatus()).next, Next::kNothing);
  EXPECT_EQ(ledger_.Close(ShardId(1), "a"), Next::kNothing);
}

TEST_F(ShardLedgerTest, EachHolderOfAShardIsOpenedAndClosedByItself) {
  Reserve(kShard, "a");
  Reserve(kShard, "b");
  EXPECT_EQ(ledger_.size(), 2u);
  EXPECT_TRUE(ledger_.OnOpened(kShard, "a", absl::OkStatus()).opened);
  EXPECT_EQ(ledger_.Close(kShard, "a"), Next::kSendClose);
  EXPECT_EQ(ledger_.Close(kShard, "b"), Next::kNothing);  // its open is under way
  ledger_.OnClosed(kShard, "a", absl::OkStatus(), 0);
  EXPECT_EQ(ledger_.Find(kShard, "a"), nullptr);
  EXPECT_EQ(ledger_.UsedBytes("a"), 0u);
  EXPECT_EQ(ledger_.UsedBytes("b"), 100u);
  EXPECT_EQ(ledger_.OnOpened(kShard, "b", absl::OkStatus()).next, Next::kSendClose);
}

TEST_F(ShardLedgerTest, OneHoldersDeathLeavesTheOther) {
  Reserve(kShard, "a");
  Reserve(kShard, "b");
  ledger_.DropNode("a");
  EXPECT_EQ(ledger_.Find(kShard, "a"), nullptr);
  ASSERT_NE(ledger_.Find(kShard, "b"), nullptr);
  EXPECT_EQ(ledger_.Find(kShard, "b")->holder.control_address, "b:1");
}

TEST_F(ShardLedgerTest, AShardReportedByANodeThatDoesNotHoldItIsForeignThere) {
  Reserve(kShard, "a");
  EXPECT_THAT(ledger_.OnReport("b", {{kShard, SequenceId(9), 40}}, 0), IsEmpty());
  EXPECT_EQ(ledger_.UsedBytes("b"), 40u);
  EXPECT_THAT(ledger_.OnReport("b", {{kShard, SequenceId(9), 40}}, 3 * kNsPerS), ElementsAre(kShard));
}

TEST_F(ShardLedgerTest, ForeignShardsCountAndBecomeOrphansAfterTheGrace) {
  Reserve(ShardId(1));
  const std::vector<ReportedShard> reported = {{ShardId(1), SequenceId(0), 100}, {ShardId(7), SequenceId(0), 40}};
  EXPECT_THAT(ledger_.OnReport("a", reported, 0), IsEmpty());
  EXPECT_EQ(ledger_.UsedBytes("a"), 140u);
  EXPECT_THAT(ledger_.OnReport("a", reported, 3 * kNsPerS), ElementsAre(ShardId(7)));
  EXPECT_THAT(ledger_.OnReport("a", {}, 4 * kNsPerS), IsEmpty());
  EXPECT_EQ(ledger_.UsedBytes("a"), 100u);
  // Seen again: a new grace.
  EXPECT_THAT(ledger_.OnReport("a", reported, 9 * kNsPerS), IsEmpty());
}

}  // namespace
}  // namespace tributary
