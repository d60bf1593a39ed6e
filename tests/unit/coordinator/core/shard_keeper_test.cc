#include "coordinator/core/shard_keeper.h"

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using Kind = ShardKeeper::OpenAnswer::Kind;

const SequenceId kSequence(9);
const WorkerIdentity kWorker{"gpu-0", 5};

// Shards with two holders each, which no placement makes yet.
class ShardKeeperTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* id : {"a", "b"}) {
      NodeDescription node;
      node.node_id = id;
      node.incarnation = 3;
      node.control_address = std::string(id) + ":1";
      node.kv_capacity_bytes = 1 << 20;
      node.extent_bytes = 4096;
      std::vector<MemberChange> changes;
      ASSERT_TRUE(membership_.Register(node, 0, &changes).ok());
    }
  }
  ShardPlacement Held(std::vector<std::string> nodes) {
    ShardPlacement placement;
    ShardSpec& spec = placement.spec;
    spec.model = {4, 2, 16};
    spec.num_layers = spec.layer_end = 2;
    spec.kv_head_end = 2;
    spec.stripe = {0, 256, 1, 0};
    spec.capacity_tokens = 256;
    spec.k_dtype = spec.v_dtype = DType::kBf16;
    for (const std::string& node : nodes) placement.holders.push_back({node, 3, node + ":1"});
    return placement;
  }
  ShardKeeper::OpenAnswer Opened(uint64_t shard, const std::string& node, absl::Status status = absl::OkStatus()) {
    return keeper_.OnOpened({ShardId(shard), node, std::move(status)}, out_);
  }
  // "a1" = close shard 1 on node a.
  std::vector<std::string> TakeCloses() {
    std::vector<std::string> closes;
    for (const Action& action : out_.Take()) {
      if (const auto* close = std::get_if<action::CloseShard>(&action)) {
        closes.push_back(close->holder.node_id + std::to_string(close->shard_id.value));
      }
    }
    return closes;
  }

  Membership membership_{{.protocol_version = 0, .suspect_after_ns = 9, .dead_after_ns = 9, .forget_after_ns = 9}};
  uint64_t last_id_ = 0;
  ShardKeeper keeper_{kNsPerS, kNsPerS, [this] { return ++last_id_; }};
  Outbox out_;
};

TEST_F(ShardKeeperTest, AnAnswerAboutAFormerPlaceIsNotOneAboutTheNext) {
  std::vector<ShardPlacement> former = {Held({"a"}), Held({"b"})};
  EXPECT_FALSE(keeper_.Open(kSequence, Epoch(4), kWorker, membership_, former, out_));
  EXPECT_EQ(Opened(1, "a", absl::UnavailableError("refused")).kind, Kind::kFailed);
  keeper_.Close(kSequence, former, out_);
  std::vector<ShardPlacement> next = {Held({"b"})};
  EXPECT_FALSE(keeper_.Open(kSequence, Epoch(5), kWorker, membership_, next, out_));
  EXPECT_EQ(Opened(2, "b", absl::UnavailableError("refused")).kind, Kind::kNothing);
  EXPECT_EQ(Opened(3, "b").kind, Kind::kAllOpen);
}

TEST_F(ShardKeeperTest, EveryHolderIsAskedAndAllMustBeOpen) {
  std::vector<ShardPlacement> shards = {Held({"a", "b"})};
  EXPECT_FALSE(keeper_.Open(kSequence, Epoch(4), kWorker, membership_, shards, out_));
  EXPECT_EQ(shards[0].spec.shard_id, ShardId(1));
  EXPECT_EQ(shards[0].spec.epoch, Epoch(4));
  const std::vector<Action> actions = out_.Take();
  ASSERT_EQ(actions.size(), 2u);
  EXPECT_EQ(std::get<action::OpenShard>(actions[1]).holder.node_id, "b");
  for (const Action& action : actions) EXPECT_EQ(std::get<action::OpenShard>(action).worker, kWorker);
  EXPECT_EQ(Opened(1, "a").kind, Kind::kNothing);
  const ShardKeeper::OpenAnswer last = Opened(1, "b");
  EXPECT_EQ(last.kind, Kind::kAllOpen);
  EXPECT_EQ(last.sequence_id, kSequence);
  // Both have reserved it.
  EXPECT_EQ(keeper_.BytesOf(shards), 2 * keeper_.ledger().UsedBytes("a"));
  keeper_.Close(kSequence, shards, out_);
  EXPECT_THAT(TakeCloses(), testing::ElementsAre("a1", "b1"));
}

TEST_F(ShardKeeperTest, OneRefusalFailsTheSequenceOnce) {
  std::vector<ShardPlacement> shards = {Held({"a", "b"}), Held({"b"})};
  keeper_.Open(kSequence, Epoch(4), kWorker, membership_, shards, out_);
  EXPECT_EQ(Opened(1, "b", absl::ResourceExhaustedError("full")).kind, Kind::kFailed);
  EXPECT_EQ(Opened(2, "b", absl::ResourceExhaustedError("full")).kind, Kind::kNothing);
  keeper_.Close(kSequence, shards, out_);
  EXPECT_TRUE(TakeCloses().empty());  // the open on a is under way
  EXPECT_EQ(Opened(1, "a").kind, Kind::kNothing);
  EXPECT_THAT(TakeCloses(), testing::ElementsAre("a1"));
}

TEST_F(ShardKeeperTest, AnUnansweredCloseIsSentAgainToThatHolder) {
  std::vector<ShardPlacement> shards = {Held({"a", "b"})};
  keeper_.Open(kSequence, Epoch(4), kWorker, membership_, shards, out_);
  Opened(1, "a");
  Opened(1, "b");
  keeper_.Close(kSequence, shards, out_);
  keeper_.OnClosed({ShardId(1), "a", absl::OkStatus()}, 0);
  keeper_.OnClosed({ShardId(1), "b", absl::UnavailableError("")}, 0);
  TakeCloses();
  keeper_.RetryCloses(kNsPerS - 1, out_);
  EXPECT_TRUE(TakeCloses().empty());
  keeper_.RetryCloses(kNsPerS, out_);
  EXPECT_THAT(TakeCloses(), testing::ElementsAre("b1"));
  keeper_.OnClosed({ShardId(1), "b", absl::OkStatus()}, kNsPerS);
  EXPECT_EQ(keeper_.ledger().size(), 0u);
}

TEST_F(ShardKeeperTest, ADeadHolderIsStruckOff) {
  std::vector<ShardPlacement> shards = {Held({"a", "b"}), Held({"b"})};
  NodeDescription node;
  node.node_id = "b";
  node.incarnation = 2;
  EXPECT_FALSE(RemoveHolder(shards, node));  // an earlier start of it
  node.incarnation = 3;
  EXPECT_TRUE(RemoveHolder(shards, node));
  ASSERT_EQ(shards[0].holders.size(), 1u);
  EXPECT_EQ(shards[0].holders[0].node_id, "a");
  EXPECT_TRUE(shards[1].holders.empty());
}

TEST_F(ShardKeeperTest, AnIdInUseIsDrawnAgain) {
  std::vector<ShardPlacement> shards = {Held({"a"})};
  keeper_.Open(kSequence, Epoch(4), kWorker, membership_, shards, out_);
  last_id_ = 0;  // the generator says 1 again
  std::vector<ShardPlacement> more = {Held({"b"})};
  keeper_.Open(SequenceId(10), Epoch(5), kWorker, membership_, more, out_);
  EXPECT_EQ(more[0].spec.shard_id, ShardId(2));
}

TEST_F(ShardKeeperTest, WithoutShardsAllAreOpen) {
  std::vector<ShardPlacement> none;
  EXPECT_TRUE(keeper_.Open(kSequence, Epoch(4), kWorker, membership_, none, out_));
  EXPECT_TRUE(out_.Take().empty());
}

}  // namespace
}  // namespace tributary
