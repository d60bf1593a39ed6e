#include "gpu_worker/remote/bound_shard.h"

#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

using State = RemoteNodes::State;
constexpr State kConnecting = State::kConnecting, kHealthy = State::kHealthy, kFailed = State::kFailed;

// Holder i is node 10 + i.
BoundShard HeldBy(size_t num_holders) {
  BoundShard shard;
  for (size_t i = 0; i < num_holders; ++i) shard.holders.push_back({.node = static_cast<NodeIdx>(10 + i)});
  return shard;
}

TEST(BoundShardTest, TheFirstHealthyHolderIsAsked) {
  struct Case {
    std::vector<State> states;
    std::vector<NodeIdx> lost;
    NodeIdx asked;
  };
  const std::vector<Case> cases = {
      {{kHealthy}, {}, 10},
      {{kConnecting}, {}, 10},
      {{kFailed}, {}, 10},
      {{kHealthy, kHealthy}, {}, 10},
      {{kConnecting, kHealthy}, {}, 11},
      {{kFailed, kHealthy}, {}, 11},
      {{kFailed, kConnecting}, {}, 11},
      {{kConnecting, kConnecting}, {}, 10},
      {{kHealthy, kFailed}, {}, 10},
      {{kFailed, kFailed}, {}, 10},
      {{kHealthy, kHealthy}, {10}, 11},  // its node is back, and has nothing of what was sent
      {{kHealthy, kConnecting}, {10}, 11},
      {{kHealthy, kFailed, kHealthy}, {10}, 12},
      {{kHealthy, kHealthy}, {10, 11}, 10},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    BoundShard shard = HeldBy(cases[i].states.size());
    for (const NodeIdx node : cases[i].lost) shard.Lose(node);
    EXPECT_EQ(ChooseHolder(shard, [&](NodeIdx node) { return cases[i].states[node - 10]; }), cases[i].asked)
        << "case " << i;
  }
}

TEST(BoundShardTest, AHolderIsLostOnceAndForEver) {
  BoundShard shard = HeldBy(2);
  EXPECT_TRUE(shard.IsHeldBy(10));
  EXPECT_FALSE(shard.IsHeldBy(12));
  EXPECT_TRUE(shard.Lose(12)) << "unknown nodes change nothing";
  EXPECT_TRUE(shard.Lose(10));
  EXPECT_FALSE(shard.IsHeldBy(10));
  EXPECT_TRUE(shard.Lose(10));
  EXPECT_FALSE(shard.Lose(11)) << "nobody is left";
}

}  // namespace
}  // namespace tributary
