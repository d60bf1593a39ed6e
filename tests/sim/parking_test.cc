// Nodes that stand still and come back: nothing is lost, tokens are the same bit for bit, whoever does not need the
// node does not wait, and whoever waits for too long is told why.
#include <algorithm>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "policy/policy_params.h"
#include "tests/sim/sim_fixture.h"

namespace tributary {
namespace {

using testing::ExpectPrefixOf;
using testing::ExpectSame;
using testing::kRounds;
using testing::RandomRequest;
using testing::Reference;

constexpr int64_t kLongStandNs = 10 * kNsPerS;

class ParkingTest : public testing::SimTest {
 protected:
  // Something of it is remote from the first token on.
  SimRequest LongRequest(const TinyModel& model) {
    SimRequest request = RandomRequest(random_, model);
    request.prompt.resize(150, 1);
    request.max_tokens = RandomInt(random_, 30u, 60u);
    request.layout = {.sink_tokens = 4, .window_tokens = 16, .block_tokens = 8};
    request.max_stall_ns = 60 * kNsPerS;
    return request;
  }
  // The node stands still from wait number `wait` on, for so long.
  static void StandStill(SimCluster& cluster, uint32_t node, uint64_t wait, int64_t stand_ns) {
    cluster.on_wait = [&cluster, node, wait, stand_ns, thaw_ns = int64_t{0}](uint64_t now) mutable {
      if (now == wait) {
        cluster.Freeze(node);
        thaw_ns = cluster.clock().NowNs() + stand_ns;
      } else if (now > wait && thaw_ns != 0 && cluster.clock().NowNs() >= thaw_ns) {
        cluster.Thaw(node);
        thaw_ns = 0;
      }
    };
  }
  static void TurnUntil(SimCluster& cluster, SequenceId id, size_t num_tokens) {
    for (int turn = 0; turn < 20'000 && cluster.result(id).tokens.size() < num_tokens; ++turn) {
      ASSERT_FALSE(cluster.result(id).ended) << cluster.result(id).status;
      cluster.Turn();
    }
    ASSERT_GE(cluster.result(id).tokens.size(), num_tokens);
  }
};

// During prefill, in the middle of a layer, while a block leaves: at any moment.
TEST_F(ParkingTest, ANodeThatStandsStillAtAnyMomentCostsNoToken) {
  uint32_t num_stalls = 0;
  for (int round = 0; round < 3 * kRounds; ++round) {
    const SimOptions options = RandomOptions();
    std::vector<SimRequest> requests;
    for (int i = 0; i < 3; ++i) requests.push_back(LongRequest(options.model));
    SimCluster cluster(options);
    StandStill(cluster, RandomInt(random_, 0u, options.num_nodes - 1), RandomInt<uint64_t>(random_, 1, 600),
               RandomInt<int64_t>(random_, 1, 100) * kLongStandNs / 100);
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    ASSERT_TRUE(cluster.RunUntilEnded());
    for (size_t i = 0; i < requests.size(); ++i) {
      ExpectSame(cluster.result(ids[i]), Reference(options, requests[i]));
      num_stalls += cluster.result(ids[i]).num_stalls;
    }
    EXPECT_EQ(cluster.Leftovers(), "");
  }
  EXPECT_GT(num_stalls, 0u);
}

TEST_F(ParkingTest, WhoDoesNotNeedTheNodeDoesNotWait) {
  SimOptions options = RandomOptions();
  options.num_nodes = 2;
  SimRequest request = LongRequest(options.model);
  request.cut = {};  // one shard each: of the first on cpu-0, of the second on cpu-1
  request.max_tokens = 60;
  SimRequest resident = request;
  resident.layout = {.all_resident = true};
  SimCluster cluster(options);
  const SequenceId stalled = cluster.Submit(request);
  const SequenceId other = cluster.Submit(resident);
  TurnUntil(cluster, stalled, 5);
  TurnUntil(cluster, other, 5);
  cluster.Freeze(0);
  int64_t last_ns = cluster.clock().NowNs(), longest_ns = 0;
  size_t num_tokens = cluster.result(other).tokens.size();
  while (!cluster.result(other).ended) {
    cluster.Turn();
    if (cluster.result(other).tokens.size() == num_tokens) continue;
    num_tokens = cluster.result(other).tokens.size();
    longest_ns = std::max(longest_ns, cluster.clock().NowNs() - last_ns);
    last_ns = cluster.clock().NowNs();
  }
  // The node's answers take no time at all: what is left is the least patience, and the probe before it.
  EXPECT_LT(longest_ns, 100 * kNsPerMs);
  EXPECT_EQ(cluster.result(stalled).stalled_on, "cpu-0");
  EXPECT_FALSE(cluster.result(stalled).ended);
  cluster.Thaw(0);
  ASSERT_TRUE(cluster.RunUntilEnded());
  ExpectSame(cluster.result(stalled), Reference(options, request));
  ExpectSame(cluster.result(other), Reference(options, resident));
  EXPECT_EQ(cluster.result(stalled).stalled_on, "");
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(ParkingTest, AStallEndsAtItsLimitAndNamesTheNode) {
  SimOptions options = RandomOptions();
  SimRequest request = LongRequest(options.model);
  request.max_stall_ns = 5 * kNsPerS;
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  TurnUntil(cluster, id, 5);
  cluster.Freeze(0);
  const int64_t begin_ns = cluster.clock().NowNs();
  ASSERT_TRUE(cluster.RunUntilEnded());
  const SimResult& result = cluster.result(id);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(result.failed_node, "cpu-0");
  EXPECT_NE(result.status.message().find("'cpu-0'"), std::string::npos) << result.status;
  EXPECT_NE(result.status.message().find("max_stall"), std::string::npos) << result.status;
  EXPECT_GE(cluster.clock().NowNs() - begin_ns, request.max_stall_ns);
  ExpectPrefixOf(result, Reference(options, request));
  cluster.Thaw(0);
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(ParkingTest, AnAppendedTurnWaits) {
  SimOptions options = RandomOptions();
  SimRequest request = LongRequest(options.model);
  request.max_tokens = 10;
  request.keep = true;
  request.max_context_tokens = 400;
  const SimTurn turn{.prompt = std::vector<uint32_t>(60, 2), .max_tokens = 20};
  const auto answer = [&](bool stands_still) {
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    EXPECT_TRUE(cluster.RunUntilEnded());
    cluster.Continue(id, turn);
    if (stands_still) {
      // A little later than the turn's beginning, and shorter than an engine waits that was told nothing.
      StandStill(cluster, 0, cluster.num_waits() + 3, 2 * kNsPerS);
    }
    EXPECT_TRUE(cluster.RunUntilEnded());
    EXPECT_EQ(cluster.Leftovers(), "");
    return cluster.result(id);
  };
  const SimResult result = answer(true);
  ExpectSame(result, answer(false));
  EXPECT_GT(result.num_stalls, 0u);
}

TEST_F(ParkingTest, AKeptSequenceOutlivesTheSilence) {
  SimOptions options = RandomOptions();
  SimRequest request = LongRequest(options.model);
  request.max_tokens = 10;
  request.keep = true;
  request.max_context_tokens = 300;
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  ASSERT_TRUE(cluster.RunUntilEnded());
  cluster.Freeze(0);
  const int64_t until_ns = cluster.clock().NowNs() + 2 * kLongStandNs;
  while (cluster.clock().NowNs() < until_ns) cluster.Turn();
  EXPECT_TRUE(cluster.result(id).kept) << cluster.result(id).status;
  EXPECT_EQ(cluster.result(id).num_stalls, 0u) << "nobody waits for it";
  cluster.Thaw(0);
  cluster.Continue(id, {.prompt = {1, 2, 3}, .max_tokens = 5});
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
  EXPECT_EQ(cluster.Leftovers(), "");
}

// The other holder is asked at once; the silent one is not lost, unless the window waits for it.
TEST_F(ParkingTest, AnotherHolderAnswersForTheSilentOne) {
  SimOptions options = RandomOptions();
  options.num_nodes = 2;
  options.num_holders = 2;
  SimRequest request = LongRequest(options.model);
  request.max_tokens = 60;
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  TurnUntil(cluster, id, 5);
  cluster.Freeze(0);
  const int64_t begin_ns = cluster.clock().NowNs();
  TurnUntil(cluster, id, 7);
  EXPECT_LT(cluster.clock().NowNs() - begin_ns, 100 * kNsPerMs);
  ASSERT_TRUE(cluster.RunUntilEnded());
  ExpectSame(cluster.result(id), Reference(options, request));
  cluster.Thaw(0);
  EXPECT_EQ(cluster.Leftovers(), "");
}

// A policy that counts queries must not see one twice: its step is not run again, it waits.
TEST_F(ParkingTest, ASparseSequenceWaitsInsideItsStep) {
  for (int round = 0; round < kRounds; ++round) {
    SimOptions options = RandomOptions();
    SimRequest request = LongRequest(options.model);
    PolicyRequest policy{.name = "hgca", .parameters = {{"beta", 1.0}}};
    policy.Set("keep_min", 1u);
    policy.Set("quality_sample_rate", 0.5);
    request.policy = *ResolvePolicy(policy, {.block_tokens = request.layout.block_tokens});
    SimCluster cluster(options);
    StandStill(cluster, RandomInt(random_, 0u, options.num_nodes - 1), RandomInt<uint64_t>(random_, 200, 600),
               kLongStandNs);
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    ExpectSame(cluster.result(id), Reference(options, request));
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

}  // namespace
}  // namespace tributary
