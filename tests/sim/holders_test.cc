// Shards that two nodes hold: every holder is sent everything, one is asked, and tokens are those of one holder, bit
// for bit, whichever answers.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "base/log.h"
#include "gtest/gtest.h"
#include "tests/sim/sim_cluster.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

class HoldersTest : public testing::Test {
 protected:
  HoldersTest() { (void)InitLogging("sim", "error"); }

  SimRequest Request() {
    SimRequest request;
    request.prompt.resize(RandomInt(random_, 60, 150));
    for (uint32_t& token : request.prompt) token = RandomInt<uint32_t>(random_, 0, TinyModel().vocab_size - 1);
    request.max_tokens = 60;
    request.layout = {.sink_tokens = 4, .window_tokens = 16, .block_tokens = 8};
    request.cut = {.num_stripes = 2, .stripe_blocks = 1, .head_parts = 2, .layer_parts = 1};
    return request;
  }
  // Four nodes, so that the shards of a sequence have different holders.
  SimOptions Options(uint32_t num_holders) { return {.seed = random_(), .num_nodes = 4, .num_holders = num_holders}; }
  static SimResult Reference(SimOptions options, const SimRequest& request) {
    options.num_holders = 1;
    options.faults = {};
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    EXPECT_TRUE(cluster.RunUntilEnded());
    EXPECT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
    return cluster.result(id);
  }
  static void ExpectSame(const SimResult& result, const SimResult& reference) {
    ASSERT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.tokens, reference.tokens);
    EXPECT_EQ(result.logits, reference.logits);
  }
  static void TurnUntil(SimCluster& cluster, SequenceId id, size_t num_tokens) {
    for (int turn = 0; turn < 20'000 && cluster.result(id).tokens.size() < num_tokens; ++turn) {
      ASSERT_FALSE(cluster.result(id).ended) << cluster.result(id).status;
      cluster.Turn();
    }
    ASSERT_GE(cluster.result(id).tokens.size(), num_tokens);
  }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
};

TEST_F(HoldersTest, TwoHoldersGiveTheTokensOfOne) {
  for (int round = 0; round < 4; ++round) {
    SimOptions options = Options(2);
    const SimRequest request = Request();
    options.faults = {.duplicate = 0.05, .max_delay_ns = kNsPerMs};
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    const SimResult& result = cluster.result(id);
    ExpectSame(result, Reference(options, request));
    EXPECT_EQ(result.summary.nodes.size(), 4u);
    uint32_t shards = 0;
    for (const NodeShare& share : result.summary.nodes) shards += share.shards;
    EXPECT_EQ(shards, 2u * 4u) << "each shard counts at each of its holders";
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(HoldersTest, AHolderThatDiesIsReplacedByTheOther) {
  for (uint32_t victim = 0; victim < 4; ++victim) {
    const SimOptions options = Options(2);
    const SimRequest request = Request();
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    TurnUntil(cluster, id, 10);
    cluster.Kill(victim);  // between two steps
    ASSERT_TRUE(cluster.RunUntilEnded());
    ExpectSame(cluster.result(id), Reference(options, request));
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

// At any moment: during the prefill, while a block leaves, while the node is waited for.
TEST_F(HoldersTest, AHolderMayDieAtAnyMoment) {
  for (int round = 0; round < 24; ++round) {
    SimOptions options = Options(2);
    options.faults = {.max_delay_ns = kNsPerMs};
    const SimRequest request = Request();
    SimCluster cluster(options);
    const auto victim = RandomInt<uint32_t>(random_, 0, 3);
    const auto fault_at = RandomInt<uint64_t>(random_, 1, 600);
    cluster.on_wait = [&](uint64_t wait) {
      if (wait != fault_at) return;
      if (round % 3 == 0) cluster.Kill(victim);
      if (round % 3 == 1) cluster.Cut(victim);
      if (round % 3 == 2) cluster.Restart(victim);
    };
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    ExpectSame(cluster.result(id), Reference(options, request));
    EXPECT_EQ(cluster.Leftovers(), "") << "round " << round;
  }
}

TEST_F(HoldersTest, WithoutAnyHolderTheSequenceFailsAndNamesTheLastOne) {
  const SimOptions options = Options(2);
  const SimRequest request = Request();
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  TurnUntil(cluster, id, 10);
  cluster.Kill(1);
  TurnUntil(cluster, id, 15);
  cluster.Kill(2);  // the only other holder of the second shard
  ASSERT_TRUE(cluster.RunUntilEnded());
  const SimResult& result = cluster.result(id);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(result.failed_node, "cpu-2") << result.status;
  EXPECT_NE(result.status.message().find("cpu-2"), std::string::npos) << result.status;
  const SimResult reference = Reference(options, request);
  ASSERT_LE(result.tokens.size(), reference.tokens.size());
  EXPECT_TRUE(std::equal(result.tokens.begin(), result.tokens.end(), reference.tokens.begin()));
  EXPECT_EQ(cluster.Leftovers(), "");
}

// The last node is nobody's first holder while all live: it only stores. While it is silent, what the others have
// acknowledged frees no slot: the sequence stands still at a full window, until the deadline of a step loses the node.
TEST_F(HoldersTest, TheAcknowledgementsOfOneHolderFreeNothing) {
  SimOptions options = Options(2);
  options.num_nodes = 2;
  SimRequest request = Request();
  request.cut = {};  // one shard, first held by cpu-0
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  TurnUntil(cluster, id, 2);
  cluster.Freeze(1);
  const int64_t frozen_ns = cluster.clock().NowNs();
  size_t num_tokens = cluster.result(id).tokens.size();
  int64_t longest_ns = 0;
  int64_t last_ns = frozen_ns;
  while (!cluster.result(id).ended) {
    cluster.Turn();
    if (cluster.result(id).tokens.size() == num_tokens) continue;
    num_tokens = cluster.result(id).tokens.size();
    longest_ns = std::max(longest_ns, cluster.clock().NowNs() - last_ns);
    last_ns = cluster.clock().NowNs();
  }
  EXPECT_GE(longest_ns, cluster.step_timeout_ns) << "it went on without the second holder's acknowledgement";
  ExpectSame(cluster.result(id), Reference(options, request));
  cluster.Thaw(1);
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(HoldersTest, ARestartedHolderIsNotAskedForWhatItHasLost) {
  SimOptions options = Options(2);
  options.num_nodes = 2;
  const SimRequest request = Request();
  SimCluster cluster(options);
  const SequenceId first = cluster.Submit(request);
  TurnUntil(cluster, first, 10);
  cluster.Restart(0);
  const SequenceId second = cluster.Submit(request);  // pairs with it again
  ASSERT_TRUE(cluster.RunUntilEnded());
  const SimResult reference = Reference(options, request);
  ExpectSame(cluster.result(first), reference);
  ExpectSame(cluster.result(second), reference);
  EXPECT_EQ(cluster.Leftovers(), "");
}

}  // namespace
}  // namespace tributary
