// A policy that production has no word of, through the whole path: its facet on the device, its sections in queries,
// spills and partials, its state on the nodes.
#include "policy/kept_mass.h"
#include "tests/toy_policy/toy_cluster_test.h"
#include "tests/toy_policy/toy_shard.h"

namespace tributary::toy {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kRounds = 3;
#else
constexpr int kRounds = 10;
#endif

using ToySimTest = ToyClusterTest;

// The facet checks each answer: what was read, and the marks that went out with the tokens. A row of which anything is
// wrong fails.
TEST_F(ToySimTest, WhatTheNodesSayIsWhatTheDeviceExpects) {
  for (int round = 0; round < 2 * kRounds; ++round) {
    SimOptions options = RandomOptions();
    options.faults.duplicate = RandomInt(random_, 0, 1) * 0.2;
    options.faults.max_delay_ns = RandomInt<int64_t>(random_, 0, 5) * kNsPerMs;
    const SimRequest request = RandomRequest(options.model, RandomInt<uint64_t>(random_, 1, 6));
    const SimResult result = testing::RunAlone(options, request);
    ASSERT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.tokens.size(), request.max_tokens);
    EXPECT_EQ(result.summary.policy, "toy");
  }
}

TEST_F(ToySimTest, EveryBlockIsEverything) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = RandomOptions();
    SimRequest request = RandomRequest(options.model, 1);
    const SimResult toy = testing::RunAlone(options, request);
    request.policy = {};
    ExpectNear(toy, testing::RunAlone(options, request));
    if (!toy.summary.attention.has_value()) continue;
    EXPECT_EQ(toy.summary.attention->remote_read_share, 1.0);
    EXPECT_NEAR(toy.summary.attention->kept_mass_min, 1.0, 1e-5);
  }
}

TEST_F(ToySimTest, OneBlockInThreeIsAThird) {
  SimOptions options = RandomOptions();
  SimRequest request = RandomRequest(options.model, 3);
  request.prompt.assign(900, 1);
  for (uint32_t& token : request.prompt) token = random_() % options.model.vocab_size;
  request.layout = {.sink_tokens = 2, .window_tokens = 16, .block_tokens = 8};
  request.cut = {};
  request.policy = Toy(3, 1);
  const SimResult toy = testing::RunAlone(options, request);
  ASSERT_TRUE(toy.status.ok()) << toy.status;
  ASSERT_TRUE(toy.summary.attention.has_value());
  EXPECT_NEAR(toy.summary.attention->remote_read_share, 1.0 / 3, 0.03);
  EXPECT_LT(toy.summary.attention->kept_mass_min, 0.9);
}

TEST_F(ToySimTest, DelaysAndTheRestOfTheBatchChangeNoBit) {
  for (int round = 0; round < kRounds; ++round) {
    SimOptions options = RandomOptions();
    std::vector<SimRequest> requests;
    for (uint64_t every : {2u, 3u, 5u}) requests.push_back(RandomRequest(options.model, every));
    requests.push_back(RandomRequest(options.model, 1));
    requests.back().policy = {};
    testing::ExpectSameTogether(options, requests, random_);
  }
}

// A policy has nothing to do for it: of whatever it reads the output's error is known, and heads fall back.
TEST_F(ToySimTest, HeadsThatAreTooWrongFallBack) {
  const SimOptions options = RandomOptions();
  SimRequest request = RandomRequest(options.model, 3);
  request.prompt.assign(300, 1);
  for (uint32_t& token : request.prompt) token = random_() % options.model.vocab_size;
  request.max_tokens = 40;
  request.forced_tokens.assign(40, 7);
  request.layout = {.sink_tokens = 2, .window_tokens = 16, .block_tokens = 8};
  request.policy = Toy(3, 1);
  const SimResult free = testing::RunAlone(options, request);
  ASSERT_TRUE(free.status.ok()) << free.status;
  EXPECT_GT(free.summary.attention->output_error_max, 0.01);
  EXPECT_EQ(free.summary.attention->fallback_heads, 0u);
  for (const char* limit : {"max_output_error", "min_kept_mass"}) {
    request.policy = Toy(3, 1);
    request.policy.Set(limit, limit[1] == 'a' ? 1e-30 : 1.0);
    const SimResult limited = testing::RunAlone(options, request);
    ASSERT_TRUE(limited.status.ok()) << limited.status;
    EXPECT_EQ(limited.summary.attention->fallback_heads, options.model.num_layers * options.model.shape.num_kv_heads)
        << limit;
    EXPECT_GT(limited.summary.attention->remote_read_share, 0.9);
    EXPECT_LT(limited.summary.attention->output_error_mean, 0.1 * free.summary.attention->output_error_mean);
  }
}

// A node that says that it has read something else than it should have.
TEST_F(ToySimTest, AWrongSectionFailsTheRow) {
  const SimOptions options = RandomOptions();
  SimRequest request = RandomRequest(options.model, 2);
  request.layout = {.sink_tokens = 2, .window_tokens = 16, .block_tokens = 8};
  ToyShard::tells_lies = true;
  const SimResult result = testing::RunAlone(options, request);
  ToyShard::tells_lies = false;
  EXPECT_FALSE(result.status.ok());
  EXPECT_NE(std::string(result.status.message()).find("toy: layer"), std::string::npos) << result.status;
}

}  // namespace
}  // namespace tributary::toy
