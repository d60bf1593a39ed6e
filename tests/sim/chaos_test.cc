// Everything that a network and its hosts do to a cluster, at once: bits that flip, alone and in bursts, in any frame,
// both ways; loss, delay, duplicates; nodes that die, freeze or are cut off. Each request gets the tokens that it would
// have got without, or a clear error, and never another token.
//
// Two seeds run in every build. With TRIBUTARY_CHAOS_SECONDS, as `./dev fuzz` sets it, fresh ones run for that long;
// TRIBUTARY_CHAOS_SEED repeats one.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/sim/sim_fixture.h"

namespace tributary {
namespace {

using testing::ExpectRightOrClearError;
using testing::RandomRequest;
using testing::Reference;

constexpr int kClustersPerSeed = 6;

// What became of the clusters of a seed.
struct ChaosCount {
  uint64_t frames_corrupted = 0;
  uint64_t headers_corrupted = 0;
  uint64_t bursts = 0;            // clusters whose corruptions were longer than a bit
  uint64_t payloads_refused = 0;  // damaged ones that a receiver has found
  uint64_t headers_refused = 0;
  int succeeded = 0;
  int failed = 0;
};

class Chaos {
 public:
  explicit Chaos(uint64_t seed) : random_(seed) {}

  void RunCluster(int cluster_idx, ChaosCount* count) {
    const SimOptions options = Options(cluster_idx);
    std::vector<SimRequest> requests;
    for (int i = 0; i < 3; ++i) requests.push_back(Request(options));
    SimCluster cluster(options);
    Disturb(cluster, options.num_nodes);
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    ASSERT_TRUE(cluster.RunUntilEnded());
    for (size_t i = 0; i < requests.size(); ++i) {
      ExpectRightOrClearError(cluster, cluster.result(ids[i]), Reference(options, requests[i]));
      ++(cluster.result(ids[i]).status.ok() ? count->succeeded : count->failed);
    }
    EXPECT_EQ(cluster.Leftovers(), "");
    AddTo(count, cluster, options.faults.max_burst_bits);
  }

 private:
  // Few and many corruptions, single bits and bursts take turns.
  SimOptions Options(int cluster_idx) {
    SimOptions options;
    options.seed = random_();
    options.model.seed = random_();
    options.num_nodes = RandomInt(random_, 1u, 4u);
    options.num_holders = RandomInt(random_, 1u, std::min(options.num_nodes, 2u));
    options.node_pool_bytes = 8u << 20;
    options.data_plane_mac = RandomInt(random_, 0, 1) == 1;
    options.faults.corrupt = std::vector{0.001, 0.005, 0.03}[cluster_idx % 3];
    options.faults.max_burst_bits = cluster_idx % 2 == 0 ? 1 : 64;
    options.faults.loss = RandomInt(random_, 0, 3) == 0 ? 0.001 : 0;
    options.faults.duplicate = RandomInt(random_, 0, 1) * 0.05;
    options.faults.max_delay_ns = RandomInt<int64_t>(random_, 0, 3) * kNsPerMs;
    options.faults.max_delay_polls = RandomInt(random_, 0u, 3u);
    return options;
  }
  SimRequest Request(const SimOptions& options) {
    SimRequest request = RandomRequest(random_, options.model);
    // A shard that a policy selects from has one holder.
    if (options.num_holders > 1 || RandomInt(random_, 0, 1) == 0) return request;
    PolicyRequest policy{.name = "hgca", .parameters = {{"beta", 1.0}}};
    policy.Set("keep_min", RandomInt(random_, 0u, std::min(3u, request.layout.block_tokens)));
    policy.Set("quality_sample_rate", RandomInt(random_, 0, 1) * 0.5);
    request.policy = *ResolvePolicy(policy, {.block_tokens = request.layout.block_tokens});
    return request;
  }
  // In half of the clusters something happens to one node.
  void Disturb(SimCluster& cluster, uint32_t num_nodes) {
    const auto victim = RandomInt(random_, 0u, num_nodes - 1);
    const auto fault_at = RandomInt<uint64_t>(random_, 1, 600);
    const int kind = RandomInt(random_, 0, 5);
    cluster.on_wait = [&cluster, victim, fault_at, kind](uint64_t wait) {
      if (kind == 0 && wait == fault_at) cluster.Kill(victim);
      if (kind == 1 && wait == fault_at) cluster.Cut(victim);
      if (kind == 2 && wait == fault_at) cluster.Freeze(victim);
      if (kind == 2 && wait == fault_at + 40) cluster.Thaw(victim);
    };
  }
  static void AddTo(ChaosCount* count, SimCluster& cluster, uint32_t max_burst_bits) {
    const InprocStats stats = cluster.network().stats();
    count->frames_corrupted += stats.corrupted;
    count->headers_corrupted += stats.corrupted_headers;
    count->bursts += stats.corrupted > 0 && max_burst_bits > 1 ? 1 : 0;
    count->payloads_refused += cluster.num_refused(FrameError::kBadPayload);
    for (const FrameError reason : {FrameError::kBadMagic, FrameError::kBadVersion, FrameError::kBadType,
                                    FrameError::kBadSize, FrameError::kBadAuthTag, FrameError::kMalformed}) {
      count->headers_refused += cluster.num_refused(reason);
    }
  }

  std::mt19937_64 random_;
};

ChaosCount RunSeed(uint64_t seed) {
  SCOPED_TRACE(::testing::Message() << "repeat with TRIBUTARY_CHAOS_SEED=" << seed);
  ChaosCount count;
  Chaos chaos(seed);
  for (int i = 0; i < kClustersPerSeed && !::testing::Test::HasFailure(); ++i) chaos.RunCluster(i, &count);
  std::printf("chaos seed %llu: %llu frames corrupted, %llu of them in the header; %d requests answered, %d failed\n",
              static_cast<unsigned long long>(seed), static_cast<unsigned long long>(count.frames_corrupted),
              static_cast<unsigned long long>(count.headers_corrupted), count.succeeded, count.failed);
  return count;
}

class ChaosTest : public testing::SimTest {
 protected:
  static void ExpectRightTokensOrErrors(uint64_t seed) {
    const ChaosCount count = RunSeed(seed);
    EXPECT_GT(count.frames_corrupted, 0u);
    EXPECT_GT(count.headers_corrupted, 0u);
    EXPECT_LT(count.headers_corrupted, count.frames_corrupted);
    EXPECT_GT(count.bursts, 0u);
    EXPECT_GT(count.payloads_refused, 0u);
    EXPECT_GT(count.headers_refused, 0u);
    EXPECT_GT(count.succeeded, 0);
    EXPECT_GT(count.failed, 0);
  }
};

TEST_F(ChaosTest, FirstSeed) { ExpectRightTokensOrErrors(1); }
TEST_F(ChaosTest, SecondSeed) { ExpectRightTokensOrErrors(2); }

TEST_F(ChaosTest, FreshSeeds) {
  if (const char* const seed = std::getenv("TRIBUTARY_CHAOS_SEED")) {
    RunSeed(std::strtoull(seed, nullptr, 10));
    return;
  }
  const char* const seconds = std::getenv("TRIBUTARY_CHAOS_SECONDS");
  if (seconds == nullptr) GTEST_SKIP() << "only with TRIBUTARY_CHAOS_SECONDS or TRIBUTARY_CHAOS_SEED";
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(std::strtod(seconds, nullptr));
  do {
    std::random_device device;
    RunSeed((uint64_t{device()} << 32) | device());
  } while (std::chrono::steady_clock::now() < end && !HasFailure());
}

}  // namespace
}  // namespace tributary
