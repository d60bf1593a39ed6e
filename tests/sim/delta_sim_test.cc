// `delta` through the whole path: with every token in reach it is dense, bit for bit; it decodes over any cut; and
// nothing depends on timing or on the rest of the batch.
#include <algorithm>
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

class DeltaSimTest : public testing::SimTest {
 protected:
  static PolicyParams Delta(std::vector<NamedValue> parameters) {
    return *ResolvePolicy({.name = "delta", .parameters = std::move(parameters)}, {});
  }
  // Long enough for each of several nodes to have whole records of codes.
  SimRequest RandomRequest(const TinyModel& model, const SimCut& cut) {
    return ForcedRequest(model, cut, RandomInt(random_, 200, 400));
  }
  // Cut by tokens, by heads, and by both.
  static std::vector<SimCut> Cuts() {
    return {{.num_stripes = 1}, {.num_stripes = 2}, {.head_parts = 2}, {.num_stripes = 2, .head_parts = 2}};
  }
};

TEST_F(DeltaSimTest, EverythingInReachIsDenseBitForBit) {
  // By the rule, and by way of the codes.
  const std::vector<PolicyParams> whole = {Delta({{"max_share", 1}, {"delta_nats", 0}}),
                                           Delta({{"max_share", 1}, {"delta_nats", 10'000}})};
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = TwoHeadOptions(std::vector<uint32_t>{1, 2, 4}[round % 3]);
    SimRequest request = RandomRequest(options.model, Cuts()[round % 4]);
    request.remote_k_dtype = static_cast<DType>(RandomInt(random_, 0, 6));
    request.remote_v_dtype = static_cast<DType>(RandomInt(random_, 0, 6));
    request.policy = whole[round % 2];
    const SimResult sparse = testing::Reference(options, request);
    request.policy = {};
    const SimResult dense = testing::Reference(options, request);
    ASSERT_EQ(sparse.tokens, dense.tokens);
    ASSERT_EQ(sparse.logits, dense.logits);
    EXPECT_EQ(sparse.summary.policy, "delta");
    ASSERT_TRUE(sparse.summary.attention.has_value());
    EXPECT_EQ(sparse.summary.attention->remote_read_share, 1.0);
  }
}

TEST_F(DeltaSimTest, DecodesOverEveryCutAndKeepsMostOfTheMass) {
  for (const uint64_t bits : {1, 2, 4}) {
    for (const SimCut& cut : Cuts()) {
      const SimOptions options = TwoHeadOptions(4);
      SimRequest request = RandomRequest(options.model, cut);
      request.prompt.resize(400, 7);
      request.policy = Delta({{"max_share", 0.3}, {"key_code_bits", bits}, {"quality_sample_rate", 0.5}});
      const SimResult result = testing::Reference(options, request);
      EXPECT_EQ(result.tokens.size(), request.max_tokens);
      ASSERT_TRUE(result.summary.attention.has_value());
      EXPECT_LT(result.summary.attention->remote_read_share, 1.0);
      EXPECT_GT(result.summary.attention->num_samples, 0u);
      // A choice by chance would keep the share that it reads.
      EXPECT_GT(result.summary.attention->kept_mass_mean, result.summary.attention->remote_read_share);
    }
  }
}

TEST_F(DeltaSimTest, DelaysAndTheRestOfTheBatchChangeNoBit) {
  for (int round = 0; round < kRounds / 2; ++round) {
    const SimOptions options = TwoHeadOptions(2);
    std::vector<SimRequest> requests;
    for (const double max_share : {0.02, 0.1, 0.3}) {
      requests.push_back(RandomRequest(options.model, Cuts()[random_() % 4]));
      requests.back().policy = Delta({{"max_share", max_share}, {"quality_sample_rate", 0.3}});
    }
    testing::ExpectSameTogether(options, requests, random_);
  }
}

TEST_F(DeltaSimTest, ALaterTurnReadsSparselyAgain) {
  const SimOptions options = TwoHeadOptions(2);
  SimRequest request = RandomRequest(options.model, {.num_stripes = 2});
  request.policy = Delta({{"quality_sample_rate", 0.5}});
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

}  // namespace
}  // namespace tributary
