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
    LedgerShard shard;
    shard.spec.shard_id = id;
    shard.node_id = node;
    shard.bytes = 100;
    ledger_.Reserve(shard);
  }
  ShardLedger ledger_{3 * kNsPerS, kNsPerS};
};

TEST_F(ShardLedgerTest, OpenCloseAndTheMemoryIsBack) {
  Reserve();
  EXPECT_EQ(ledger_.UsedBytes("a"), 100u);
  EXPECT_TRUE(ledger_.OnOpened(kShard, absl::OkStatus()).opened);
  EXPECT_EQ(ledger_.Close(kShard), Next::kSendClose);
  EXPECT_EQ(ledger_.Close(kShard), Next::kNothing);
  EXPECT_EQ(ledger_.UsedBytes("a"), 100u);
  ledger_.OnClosed(kShard, absl::OkStatus(), 0);
  EXPECT_EQ(ledger_.UsedBytes("a"), 0u);
  EXPECT_EQ(ledger_.size(), 0u);
}

TEST_F(ShardLedgerTest, ACloseBeforeTheOpenWasAnsweredWaitsForIt) {
  Reserve();
  EXPECT_EQ(ledger_.Close(kShard), Next::kNothing);
  const auto result = ledger_.OnOpened(kShard, absl::OkStatus());
  EXPECT_FALSE(result.opened);
  EXPECT_EQ(result.next, Next::kSendClose);
}

TEST_F(ShardLedgerTest, ARefusedOpenIsGoneAnUnansweredOneIsClosed) {
  Reserve(ShardId(1));
  Reserve(ShardId(2));
  EXPECT_EQ(ledger_.OnOpened(ShardId(1), absl::ResourceExhaustedError("")).next, Next::kNothing);
  EXPECT_EQ(ledger_.Find(ShardId(1)), nullptr);
  EXPECT_EQ(ledger_.OnOpened(ShardId(2), absl::DeadlineExceededError("")).next, Next::kSendClose);
  EXPECT_NE(ledger_.Find(ShardId(2)), nullptr);
}

TEST_F(ShardLedgerTest, AFailedCloseIsDueAgain) {
  Reserve();
  ledger_.OnOpened(kShard, absl::OkStatus());
  ledger_.Close(kShard);
  ledger_.OnClosed(kShard, absl::UnavailableError(""), 0);
  EXPECT_THAT(ledger_.TakeDueCloses(kNsPerS - 1), IsEmpty());
  EXPECT_THAT(ledger_.TakeDueCloses(kNsPerS), ElementsAre(kShard));
  EXPECT_THAT(ledger_.TakeDueCloses(9 * kNsPerS), IsEmpty());
  ledger_.OnClosed(kShard, absl::FailedPreconditionError("later epoch"), 0);
  EXPECT_EQ(ledger_.size(), 0u);
}

TEST_F(ShardLedgerTest, ADeadNodesShardsAreDropped) {
  Reserve(ShardId(1), "a");
  Reserve(ShardId(2), "b");
  ledger_.DropNode("a");
  EXPECT_EQ(ledger_.size(), 1u);
  EXPECT_EQ(ledger_.UsedBytes("a"), 0u);
  EXPECT_EQ(ledger_.OnOpened(ShardId(1), absl::OkStatus()).next, Next::kNothing);
  EXPECT_EQ(ledger_.Close(ShardId(1)), Next::kNothing);
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
