#include "coordinator/core/placement.h"

#include <map>
#include <random>

#include "base/limits.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kv_store/kv_shard.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

Demand DemandOf(uint64_t context_tokens, Cut cut = Cut::kTokens) {
  Demand demand;
  demand.geometry = {{8, 4, 16}, 2, 256, "tiny"};
  demand.prompt_tokens = context_tokens;
  demand.max_context_tokens = context_tokens;
  demand.placement.window_tokens = 64;
  demand.placement.sink_tokens = 16;
  demand.placement.block_tokens = 16;
  demand.placement.kv_dtype = DType::kBf16;
  demand.placement.remote_k_dtype = demand.placement.remote_v_dtype = DType::kBf16;
  demand.placement.cut = cut;
  return demand;
}

ClusterRoom Cluster(std::vector<uint64_t> available_bytes) {
  ClusterRoom room;
  room.workers.push_back({"gpu-0", 1 << 20, 1 << 20, 0, 0});
  for (size_t i = 0; i < available_bytes.size(); ++i) {
    room.nodes.push_back(
        {{fmt::format("cpu-{}", i), 1, fmt::format("host:{}", i)}, 64 << 20, available_bytes[i], 4096});
  }
  return room;
}

TEST(PlacementTest, ShortContextsStayResident) {
  const uint64_t kept = 16 + 64 + 16;
  EXPECT_EQ(MaxRemoteTokens(DemandOf(kept)), 0u);
  EXPECT_EQ(MaxRemoteTokens(DemandOf(kept + 1)), 16u);
  Demand all = DemandOf(100'000);
  all.placement.all_resident = true;
  EXPECT_EQ(MaxRemoteTokens(all), 0u);
  EXPECT_EQ(MaxResidentTokens(all), 100'000u);
  EXPECT_EQ(MaxResidentTokens(DemandOf(100'000)), 16u + 64 + 2 * 16);
  EXPECT_EQ(MaxResidentTokens(DemandOf(20)), 20u);
}

TEST(PlacementTest, ACutIsKeptOnFewerNodes) {
  Demand demand = DemandOf(3000);
  const PlacementResult before = Place(Cluster({8 << 20, 8 << 20, 8 << 20}), demand);
  ASSERT_TRUE(before.status.ok()) << before.status;
  ASSERT_EQ(before.plan.shards.size(), 3u);
  for (const ShardPlacement& shard : before.plan.shards) demand.cut.push_back(shard.spec);
  const PlacementResult after = Place(Cluster({8 << 20, 8 << 20}), demand);
  ASSERT_TRUE(after.status.ok()) << after.status;
  ASSERT_EQ(after.plan.shards.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(after.plan.shards[i].spec, demand.cut[i]);
    EXPECT_EQ(after.plan.shards[i].holders.front().node_id, i % 2 == 0 ? "cpu-0" : "cpu-1");
  }
  // A worker that merges fewer stripes does not get it.
  ClusterRoom coarse = Cluster({8 << 20, 8 << 20});
  coarse.workers[0].max_token_stripes = 2;
  EXPECT_TRUE(absl::IsResourceExhausted(Place(coarse, demand).status));
}

TEST(PlacementTest, ShardsHaveTheLayersThatAreNotWindowed) {
  Demand demand = DemandOf(3000);
  demand.geometry.num_layers = 6;
  const PlacementResult whole = Place(Cluster({8 << 20}), demand);
  ASSERT_TRUE(whole.status.ok()) << whole.status;
  demand.geometry.num_windowed_layers = 4;
  demand.geometry.sliding_window_tokens = 64;
  const PlacementResult placed = Place(Cluster({8 << 20}), demand);
  ASSERT_TRUE(placed.status.ok()) << placed.status;
  ASSERT_EQ(placed.plan.shards.size(), 1u);
  EXPECT_EQ(placed.plan.shards[0].spec.num_layers, 2u);
  EXPECT_EQ(placed.plan.shards[0].spec.layer_end, 2u);
  // The worker keeps the windows of all layers.
  EXPECT_EQ(placed.plan.resident_bytes, whole.plan.resident_bytes);
  demand.geometry.num_windowed_layers = 6;
  const PlacementResult none = Place(Cluster({}), demand);
  ASSERT_TRUE(none.status.ok()) << none.status;
  EXPECT_TRUE(none.plan.shards.empty());
}

TEST(PlacementTest, PrefersManyNodesAndThoseWithMostRoom) {
  ClusterRoom cluster = Cluster({1 << 20, 3 << 20, 2 << 20});
  Demand demand = DemandOf(3000);
  PlacementResult placed = Place(cluster, demand);
  ASSERT_TRUE(placed.status.ok()) << placed.status;
  ASSERT_EQ(placed.plan.shards.size(), 3u);
  EXPECT_EQ(placed.plan.shards[0].holders.at(0).node_id, "cpu-1");
  EXPECT_EQ(placed.plan.shards[1].holders.at(0).node_id, "cpu-2");
  EXPECT_EQ(placed.plan.shards[2].holders.at(0).node_id, "cpu-0");
  demand.placement.max_nodes = 2;
  EXPECT_EQ(Place(cluster, demand).plan.shards.size(), 2u);
}

TEST(PlacementTest, FallsBackToFewerNodesWhenSmallOnesHaveNoRoom) {
  const PlacementResult placed = Place(Cluster({4096, 8 << 20, 4096}), DemandOf(3000));
  ASSERT_TRUE(placed.status.ok()) << placed.status;
  ASSERT_EQ(placed.plan.shards.size(), 1u);
  EXPECT_EQ(placed.plan.shards[0].holders.at(0).node_id, "cpu-1");
}

TEST(PlacementTest, ASuspectNodeTakesNothingButIsWorthWaitingFor) {
  ClusterRoom cluster = Cluster({8 << 20});
  cluster.nodes[0].usable = false;
  const PlacementResult placed = Place(cluster, DemandOf(3000));
  EXPECT_EQ(placed.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(placed.may_wait);
}

TEST(PlacementTest, TellsFullFromTooSmallFromAbsent) {
  PlacementResult placed = Place(Cluster({0}), DemandOf(3000));
  EXPECT_TRUE(placed.may_wait);
  placed = Place(Cluster({0}), DemandOf(10'000'000));
  EXPECT_EQ(placed.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_FALSE(placed.may_wait);
  EXPECT_THAT(placed.status.ToString(), HasSubstr(fmt::format("{}", 64 << 20)));
  placed = Place(Cluster({}), DemandOf(3000));
  EXPECT_EQ(placed.status.code(), absl::StatusCode::kUnavailable);
  placed = Place({}, DemandOf(3000));
  EXPECT_EQ(placed.status.code(), absl::StatusCode::kUnavailable);
}

// A tile must fit into an extent: nodes with smaller extents take nothing, whatever room they have.
TEST(PlacementTest, NodesWithTooSmallExtentsAreLeftOut) {
  ClusterRoom cluster = Cluster({64 << 20, 32 << 20});
  Demand demand = DemandOf(3000);
  demand.geometry.attention.head_dim = 64;
  demand.placement.max_nodes = 1;
  PlacementResult placed = Place(cluster, demand);
  EXPECT_EQ(placed.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(placed.status.ToString(), HasSubstr("16384 bytes, more than an extent of 4096"));
  EXPECT_FALSE(placed.may_wait);
  cluster.nodes[1].extent_bytes = 16384;
  placed = Place(cluster, demand);
  ASSERT_TRUE(placed.status.ok()) << placed.status;
  ASSERT_EQ(placed.plan.shards.size(), 1u);
  EXPECT_EQ(placed.plan.shards[0].holders.at(0).node_id, "cpu-1");
}

// Quantised shards reserve less.
TEST(PlacementTest, StorageDTypesDecideTheRoom) {
  Demand demand = DemandOf(3000);
  demand.geometry.attention.head_dim = 128;
  ClusterRoom cluster = Cluster({64 << 20});
  cluster.nodes[0].extent_bytes = 64 << 10;
  const auto bytes_of = [&](const ShardSpec& spec) {
    return *KvShard::ReservedBytes(spec, cluster.nodes[0].extent_bytes);
  };
  const uint64_t plain = bytes_of(Place(cluster, demand).plan.shards[0].spec);
  demand.placement.remote_k_dtype = DType::kInt8;
  demand.placement.remote_v_dtype = DType::kInt4;
  const ShardPlacement shard = Place(cluster, demand).plan.shards[0];
  EXPECT_EQ(shard.spec.v_dtype, DType::kInt4);
  EXPECT_LT(bytes_of(shard.spec), plain / 2);
  EXPECT_GT(bytes_of(shard.spec), plain / 4);
}

TEST(PlacementTest, TheLeastLoadedWorkerWithRoomIsTaken) {
  ClusterRoom cluster = Cluster({8 << 20});
  cluster.workers = {{"a", 1 << 20, 0, 0, 0},
                     {"b", 1 << 20, 1 << 20, 5, 0},
                     {"c", 1 << 20, 1 << 20, 2, 0},
                     {"d", 1 << 20, 1 << 20, 1, 0, false}};
  EXPECT_EQ(Place(cluster, DemandOf(300)).plan.worker_id, "c");
  cluster.workers.resize(1);
  EXPECT_TRUE(Place(cluster, DemandOf(300)).may_wait);
}

// For random demands: every remote token of every layer and KV head lies in exactly one shard, with room, and no node
// is asked for more than it has.
TEST(PlacementTest, EveryRemoteTokenHasExactlyOnePlace) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(fmt::format("TRIBUTARY_TEST_SEED={}", seed));
  std::mt19937_64 random(seed);
  const auto pick = [&](uint64_t low, uint64_t high) { return low + random() % (high - low + 1); };
  int num_placed = 0;
  for (int i = 0; i < 500; ++i) {
    Demand demand = DemandOf(pick(1, 20'000), static_cast<Cut>(pick(0, 3)));
    demand.placement.block_tokens = static_cast<uint32_t>(pick(1, 300));
    demand.placement.window_tokens = static_cast<uint32_t>(demand.placement.block_tokens + pick(0, 500));
    demand.placement.sink_tokens = static_cast<uint32_t>(pick(0, 100));
    demand.placement.max_nodes = static_cast<uint32_t>(pick(0, 4));
    std::vector<uint64_t> room(pick(1, 6));
    for (uint64_t& bytes : room) bytes = pick(0, 8 << 20);
    ClusterRoom cluster = Cluster(room);
    cluster.workers[0].max_token_stripes = static_cast<uint32_t>(pick(1, 8));
    const PlacementResult placed = Place(cluster, demand);
    if (!placed.status.ok()) continue;
    ++num_placed;

    const uint64_t sink = demand.placement.sink_tokens;
    const uint64_t remote_end = sink + MaxRemoteTokens(demand);
    std::map<std::string, uint64_t> used;
    for (const ShardPlacement& shard : placed.plan.shards) {
      EXPECT_TRUE(Validate(shard.spec).ok()) << Validate(shard.spec);
      EXPECT_EQ(shard.spec.stripe.stripe_tokens % demand.placement.block_tokens, 0u);
      EXPECT_GE(shard.spec.capacity_tokens, shard.spec.stripe.LocalIndex(remote_end));
      EXPECT_LE(shard.spec.stripe.num_stripes, cluster.workers[0].max_token_stripes);
      ASSERT_EQ(shard.holders.size(), 1u);
      used[shard.holders[0].node_id] += *KvShard::ReservedBytes(shard.spec, 4096);
    }
    if (demand.placement.max_nodes != 0) {
      EXPECT_LE(used.size(), demand.placement.max_nodes);
    }
    for (const NodeRoom& node : cluster.nodes) EXPECT_LE(used[node.endpoint.node_id], node.available_bytes);
    for (uint64_t pos = sink; pos < remote_end; pos += pick(1, 100)) {
      for (uint32_t head = 0; head < 4; ++head) {
        int holders = 0;
        for (const ShardPlacement& shard : placed.plan.shards) {
          const bool has_head = shard.spec.kv_head_begin <= head && head < shard.spec.kv_head_end;
          if (has_head && shard.spec.stripe.Owns(pos)) ++holders;
        }
        ASSERT_EQ(holders, 1) << "token " << pos << " head " << head;
      }
    }
  }
  EXPECT_GT(num_placed, 100);
}

}  // namespace
}  // namespace tributary
