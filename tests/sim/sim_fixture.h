// Random requests to simulated clusters, and what must come of them: the tokens of a cluster without faults, or a clear
// error.
#pragma once

#include <random>
#include <span>
#include <vector>

#include "base/log.h"
#include "gtest/gtest.h"
#include "tests/sim/sim_cluster.h"
#include "tests/testutil/test_seed.h"

namespace tributary::testing {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr int kRounds = 4;
#else
inline constexpr int kRounds = 12;
#endif

inline SimRequest RandomRequest(std::mt19937_64& random, const TinyModel& model) {
  SimRequest request;
  request.prompt.resize(RandomInt(random, 1, 160));
  for (uint32_t& token : request.prompt) token = RandomInt<uint32_t>(random, 0, model.vocab_size - 1);
  request.max_tokens = RandomInt<uint32_t>(random, 1, 60);
  request.layout.block_tokens = RandomInt<uint32_t>(random, 1, 12);
  request.layout.window_tokens = request.layout.block_tokens + RandomInt<uint32_t>(random, 0, 20);
  request.layout.sink_tokens = RandomInt<uint32_t>(random, 0, 1) == 0 ? 0 : RandomInt<uint32_t>(random, 1, 9);
  request.cut.num_stripes = RandomInt<uint32_t>(random, 1, 4);
  request.cut.stripe_blocks = RandomInt<uint64_t>(random, 1, 3);
  request.cut.head_parts = RandomInt<uint32_t>(random, 1, 2);
  request.cut.layer_parts = RandomInt<uint32_t>(random, 1, 2);
  request.kv_dtype = std::vector{DType::kF32, DType::kBf16, DType::kF16}[RandomInt(random, 0, 2)];
  request.remote_k_dtype = static_cast<DType>(RandomInt(random, 0, 6));
  request.remote_v_dtype = static_cast<DType>(RandomInt(random, 0, 6));
  if (RandomInt(random, 0, 1) == 0) request.sampling = {.temperature = 0.9f, .top_p = 0.95f, .seed = random()};
  if (RandomInt(random, 0, 3) == 0) {
    request.sampling.min_p = 0.05f;
    request.sampling.frequency_penalty = 0.25f;
    request.sampling.repetition_penalty = 1.2f;
  }
  return request;
}

// In a cluster of its own, of which nothing is left over.
inline SimResult RunAlone(const SimOptions& options, const SimRequest& request) {
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  EXPECT_TRUE(cluster.RunUntilEnded());
  EXPECT_EQ(cluster.Leftovers(), "");
  return cluster.result(id);
}

// The same without faults: the truth for this plan, bit for bit.
inline SimResult Reference(const SimOptions& options, const SimRequest& request) {
  SimOptions calm = options;
  calm.faults = {};
  const SimResult result = RunAlone(calm, request);
  EXPECT_TRUE(result.status.ok()) << result.status;
  return result;
}

inline void ExpectPrefixOf(const SimResult& result, const SimResult& reference) {
  ASSERT_LE(result.tokens.size(), reference.tokens.size());
  for (size_t i = 0; i < result.tokens.size(); ++i) {
    ASSERT_EQ(result.tokens[i], reference.tokens[i]) << "token " << i;
    ASSERT_EQ(result.logits[i], reference.logits[i]) << "logits of token " << i;
  }
}

inline void ExpectSame(const SimResult& result, const SimResult& reference) {
  ASSERT_TRUE(result.status.ok()) << result.status;
  ASSERT_EQ(result.tokens.size(), reference.tokens.size());
  ExpectPrefixOf(result, reference);
}

inline void ExpectRightOrClearError(SimCluster& cluster, const SimResult& result, const SimResult& reference) {
  ASSERT_TRUE(result.ended);
  if (result.status.ok()) return ExpectSame(result, reference);
  ExpectPrefixOf(result, reference);
  EXPECT_NE(result.failed_node, "") << result.status;
  EXPECT_NE(result.status.message().find(result.failed_node), std::string::npos) << result.status;
}

// Neither delays, nor frames that come twice, nor the other requests change a bit of what each is answered alone.
inline void ExpectSameTogether(const SimOptions& options, std::span<const SimRequest> requests,
                               std::mt19937_64& random) {
  std::vector<SimResult> alone;
  for (const SimRequest& request : requests) alone.push_back(Reference(options, request));
  SimOptions restless = options;
  restless.faults.max_delay_ns = RandomInt<int64_t>(random, 0, 20) * kNsPerMs;
  restless.faults.max_delay_polls = RandomInt(random, 0u, 5u);
  restless.faults.duplicate = 0.2;
  SimCluster cluster(restless);
  std::vector<SequenceId> ids;
  for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
  ASSERT_TRUE(cluster.RunUntilEnded());
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_TRUE(cluster.result(ids[i]).status.ok()) << cluster.result(ids[i]).status;
    ASSERT_EQ(cluster.result(ids[i]).logits, alone[i].logits) << "request " << i;
  }
  EXPECT_EQ(cluster.Leftovers(), "");
}

class SimTest : public ::testing::Test {
 protected:
  explicit SimTest(uint64_t seed = TestSeed()) : seed_(seed) { (void)InitLogging("sim", "error"); }
  SimOptions RandomOptions() {
    SimOptions options;
    options.seed = random_();
    options.model.seed = random_();
    options.num_nodes = RandomInt<uint32_t>(random_, 1, 4);
    return options;
  }
  // Of two KV heads, so that cuts by heads are there.
  SimOptions TwoHeadOptions(uint32_t num_nodes) {
    SimOptions options;
    options.seed = random_();
    options.model.seed = random_();
    options.model.shape.num_kv_heads = 2;
    options.num_nodes = num_nodes;
    return options;
  }
  // The same tokens whatever a policy reads, so that every position can be compared.
  SimRequest ForcedRequest(const TinyModel& model, const SimCut& cut, int prompt_tokens) {
    SimRequest request;
    request.prompt.resize(static_cast<size_t>(prompt_tokens));
    for (uint32_t& token : request.prompt) token = random_() % model.vocab_size;
    request.max_tokens = RandomInt(random_, 10u, 30u);
    for (uint32_t i = 0; i < request.max_tokens; ++i) request.forced_tokens.push_back(random_() % model.vocab_size);
    request.layout.block_tokens = RandomInt(random_, 4u, 16u);
    request.layout.window_tokens = request.layout.block_tokens + RandomInt(random_, 0u, 20u);
    request.layout.sink_tokens = RandomInt(random_, 0u, 9u);
    request.cut = cut;
    return request;
  }
  std::vector<SimRequest> RandomRequests(int count, const TinyModel& model) {
    std::vector<SimRequest> requests;
    for (int i = 0; i < count; ++i) requests.push_back(RandomRequest(random_, model));
    return requests;
  }

  const uint64_t seed_;
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
};

}  // namespace tributary::testing
