// A shard that is granted to another worker, as the one that has lost it sees it: a clear error, soon, and no other
// token.
#include <string>

#include "gtest/gtest.h"
#include "tests/sim/sim_fixture.h"

namespace tributary {
namespace {

using testing::ExpectPrefixOf;
using testing::ExpectSame;
using testing::RandomRequest;
using testing::Reference;

class GrantsTest : public testing::SimTest {
 protected:
  SimRequest Request(const SimOptions& options) {
    SimRequest request = RandomRequest(random_, options.model);
    request.prompt.resize(150, 1);
    request.max_tokens = 60;
    request.layout = {.sink_tokens = 4, .window_tokens = 16, .block_tokens = 8};
    return request;
  }
  // Moves all shards of the sequence.
  static void Grant(SimCluster& cluster, SequenceId id, const WorkerIdentity& worker) {
    for (const ShardPlacement& shard : cluster.shards(id)) {
      uint32_t node = 0;
      while (cluster.node_id(node) != shard.holders.front().node_id) ++node;
      ASSERT_TRUE(cluster.server(node).OpenShard(shard.spec, worker).ok());
    }
  }
  static void ExpectNotGranted(SimCluster& cluster, SequenceId id, const SimResult& reference) {
    const SimResult& result = cluster.result(id);
    EXPECT_EQ(result.status.code(), absl::StatusCode::kInternal);
    const std::string message(result.status.message());
    EXPECT_NE(message.find("CPU attention node '" + result.failed_node + "'"), std::string::npos) << message;
    EXPECT_NE(message.find("not_granted (node " + result.failed_node + " refused frame "), std::string::npos)
        << message;
    EXPECT_NE(message.find(" is not granted to worker worker-0 (incarnation 1))"), std::string::npos) << message;
    ExpectPrefixOf(result, reference);
    EXPECT_EQ(cluster.Leftovers(), "");
  }
};

TEST_F(GrantsTest, SpillsToAShardOfAnotherWorkerFailTheSequence) {
  const SimOptions options = RandomOptions();
  const SimRequest request = Request(options);
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  Grant(cluster, id, {"worker-1", 1});
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_TRUE(cluster.result(id).tokens.empty());
  ExpectNotGranted(cluster, id, Reference(options, request));
  EXPECT_LT(cluster.clock().NowNs(), kNsPerS) << "nobody waits for a deadline";
}

TEST_F(GrantsTest, QueriesOfAShardOfAnotherRunOfTheWorkerFailTheSequence) {
  const SimOptions options = RandomOptions();
  const SimRequest request = Request(options);
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  while (cluster.result(id).tokens.size() < 5) cluster.Turn();
  Grant(cluster, id, {"worker-0", 2});
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_EQ(cluster.result(id).tokens.size(), 5u);
  ExpectNotGranted(cluster, id, Reference(options, request));
  EXPECT_LT(cluster.clock().NowNs(), kNsPerS) << "nobody waits for a deadline";
}

TEST_F(GrantsTest, AGrantThatIsGivenAgainChangesNothing) {
  const SimOptions options = RandomOptions();
  const SimRequest request = Request(options);
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  while (cluster.result(id).tokens.size() < 5) cluster.Turn();
  Grant(cluster, id, {"worker-1", 1});
  Grant(cluster, id, {"worker-0", 1});
  ASSERT_TRUE(cluster.RunUntilEnded());
  ExpectSame(cluster.result(id), Reference(options, request));
}

}  // namespace
}  // namespace tributary
