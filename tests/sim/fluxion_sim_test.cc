// Fluxion through the whole path: with every block selected it is dense, bit for bit; every mode decodes over any cut;
// and nothing depends on timing or on the rest of the batch.
#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/sim/sim_fixture.h"

namespace tributary {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kRounds = 3;
#else
constexpr int kRounds = 6;
#endif

class FluxionSimTest : public testing::SimTest {
 protected:
  static PolicyParams Fluxion(std::vector<NamedValue> parameters) {
    return *ResolvePolicy({.name = "fluxion", .parameters = std::move(parameters)}, {});
  }
  // Long enough for blocks of 16 to be whole on each of several nodes.
  SimRequest RandomRequest(const TinyModel& model, const SimCut& cut) {
    return ForcedRequest(model, cut, RandomInt(random_, 120, 200));
  }
  // Cut by tokens, by heads, and by both.
  static std::vector<SimCut> Cuts() {
    return {{.num_stripes = 1},
            {.num_stripes = 2},
            {.num_stripes = 4},
            {.head_parts = 2},
            {.num_stripes = 2, .head_parts = 2}};
  }
};

TEST_F(FluxionSimTest, AWholeBudgetIsDenseBitForBit) {
  const std::vector<PolicyParams> whole = {
      Fluxion({{"budget_mode", "fixed"}, {"budget", 1}}),
      Fluxion({{"captured_mass", 1}, {"min_block_mass", 0}, {"max_budget", 1}, {"quality_sample_rate", 1}})};
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = TwoHeadOptions(std::vector<uint32_t>{1, 2, 4}[round % 3]);
    SimRequest request = RandomRequest(options.model, Cuts()[round % 5]);
    request.remote_k_dtype = static_cast<DType>(RandomInt(random_, 0, 6));
    request.remote_v_dtype = static_cast<DType>(RandomInt(random_, 0, 6));
    request.policy = whole[round % 2];
    const SimResult sparse = testing::Reference(options, request);
    request.policy = {};
    const SimResult dense = testing::Reference(options, request);
    ASSERT_EQ(sparse.tokens, dense.tokens);
    ASSERT_EQ(sparse.logits, dense.logits);
    EXPECT_EQ(sparse.summary.policy, "fluxion");
    ASSERT_TRUE(sparse.summary.attention.has_value());
    EXPECT_EQ(sparse.summary.attention->remote_read_share, 1.0);
    EXPECT_EQ(sparse.summary.attention->kept_mass_min, 1.0);
  }
}

TEST_F(FluxionSimTest, EveryModeDecodesOverEveryCut) {
  for (const char* mode : {"fixed", "calibrated", "oracle"}) {
    for (const SimCut& cut : Cuts()) {
      for (const uint32_t num_nodes : {1u, 4u}) {
        const SimOptions options = TwoHeadOptions(num_nodes);
        SimRequest request = RandomRequest(options.model, cut);
        request.policy =
            Fluxion({{"budget_mode", mode}, {"budget", 0.1}, {"max_budget", 0.3}, {"quality_sample_rate", 0.5}});
        const SimResult result = testing::Reference(options, request);
        EXPECT_EQ(result.tokens.size(), request.max_tokens);
        ASSERT_TRUE(result.summary.attention.has_value());
        EXPECT_LT(result.summary.attention->remote_read_share, 1.0) << mode;
        EXPECT_GT(result.summary.attention->num_samples, 0u);
      }
    }
  }
}

TEST_F(FluxionSimTest, ASequenceWithoutAPredictorEndsWithWhatToDo) {
  const SimOptions options = TwoHeadOptions(1);
  SimRequest request = RandomRequest(options.model, {.num_stripes = 1});
  request.policy = Fluxion({{"budget_mode", "predictor"}});
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_EQ(cluster.result(id).status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(cluster.result(id).status.message()).find("budget_mode calibrated"), std::string::npos)
      << cluster.result(id).status;
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(FluxionSimTest, DelaysAndTheRestOfTheBatchChangeNoBit) {
  for (int round = 0; round < kRounds / 2; ++round) {
    SimOptions options = TwoHeadOptions(2);
    std::vector<SimRequest> requests;
    for (const char* mode : {"calibrated", "fixed", "calibrated", "oracle"}) {
      requests.push_back(RandomRequest(options.model, Cuts()[random_() % 5]));
      requests.back().policy = Fluxion({{"budget_mode", mode}, {"quality_sample_rate", 0.3}});
    }
    testing::ExpectSameTogether(options, requests, random_);
  }
}

TEST_F(FluxionSimTest, ALaterTurnReadsSparselyAgain) {
  for (const char* mode : {"fixed", "calibrated"}) {
    const SimOptions options = TwoHeadOptions(2);
    SimRequest request = RandomRequest(options.model, {.num_stripes = 2});
    request.policy = Fluxion({{"budget_mode", mode}, {"quality_sample_rate", 0.5}});
    request.keep = true;
    request.max_context_tokens = 1000;
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    ASSERT_TRUE(cluster.result(id).kept);
    SimTurn turn;
    for (int i = 0; i < 60; ++i) turn.prompt.push_back(random_() % options.model.vocab_size);
    turn.max_tokens = 30;
    cluster.Continue(id, turn);
    ASSERT_TRUE(cluster.RunUntilEnded());
    ASSERT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
    ASSERT_TRUE(cluster.result(id).summary.attention.has_value());
    EXPECT_LT(cluster.result(id).summary.attention->remote_read_share, 1.0);
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

}  // namespace
}  // namespace tributary
