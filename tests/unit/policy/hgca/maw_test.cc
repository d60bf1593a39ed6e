#include "policy/hgca/maw.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::FloatEq;
using ::testing::NanSensitiveFloatEq;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// One softmax row per query head.
std::vector<float> RandomWeights(std::mt19937_64& random, uint32_t heads, size_t tokens) {
  std::vector<float> weights(heads * tokens);
  std::normal_distribution<double> score(0, 3);
  for (uint32_t head = 0; head < heads; ++head) {
    double sum = 0;
    for (size_t t = 0; t < tokens; ++t) {
      const double e = std::exp(score(random));
      weights[head * tokens + t] = static_cast<float>(e);
      sum += e;
    }
    for (size_t t = 0; t < tokens; ++t) {
      weights[head * tokens + t] = static_cast<float>(weights[head * tokens + t] / sum);
    }
  }
  return weights;
}

TEST(MawTest, GroupsByMaxOrMean) {
  const std::vector<float> weights{0.5f, 0.25f, 0.25f, 0.125f, 0.75f, 0.125f};
  std::vector<float> a(3);
  AggregateGroup(GroupAggregate::kMax, weights, 2, a);
  EXPECT_THAT(a, ElementsAre(0.5f, 0.75f, 0.25f));
  AggregateGroup(GroupAggregate::kMean, weights, 2, a);
  EXPECT_THAT(a, ElementsAre(0.3125f, 0.5f, 0.1875f));
}

TEST(MawTest, ANanOfAnyHeadShows) {
  for (const auto how : {GroupAggregate::kMax, GroupAggregate::kMean}) {
    std::vector<float> a(2);
    AggregateGroup(how, std::vector<float>{kNan, 0.5f, 0.5f, 0.5f}, 2, a);
    EXPECT_THAT(a, ElementsAre(NanSensitiveFloatEq(kNan), 0.5f));
    AggregateGroup(how, std::vector<float>{0.5f, 0.5f, 0.5f, kNan}, 2, a);
    EXPECT_THAT(a, ElementsAre(0.5f, NanSensitiveFloatEq(kNan)));
  }
}

TEST(MawTest, NewTokensStartAtA) {
  std::vector<float> maw{0.5f, 0.25f, 99.0f};
  UpdateMaw(0.5f, std::vector<float>{0.25f, 0.25f, 0.5f}, 2, maw);
  EXPECT_THAT(maw, ElementsAre(0.375f, 0.25f, 0.5f));
}

TEST(MawTest, AlphaOneForgetsAndAlphaZeroKeeps) {
  std::vector<float> maw{0.5f, 0.25f};
  UpdateMaw(0.0f, std::vector<float>{0.125f, 1.0f}, 2, maw);
  EXPECT_THAT(maw, ElementsAre(0.5f, 0.25f));
  UpdateMaw(1.0f, std::vector<float>{0.125f, 1.0f}, 2, maw);
  EXPECT_THAT(maw, ElementsAre(0.125f, 1.0f));
}

TEST(MawTest, WhatIsNotFiniteLeavesNoTrace) {
  std::vector<float> maw{0.5f, kNan, kInf, 0.25f};
  UpdateMaw(0.5f, std::vector<float>{kNan, 0.125f, 0.125f, kInf}, 4, maw);
  EXPECT_THAT(maw, ElementsAre(0.5f, 0.125f, 0.125f, 0.25f));
}

// A whole life in the window: group, average, step after step, against f64 by the definition
// MAW_n = alpha sum_i (1 - alpha)^i A_{n-i} + (1 - alpha)^n A_0.
TEST(MawTest, AgreesWithTheDefinition) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 50; ++round) {
    const auto group = RandomInt<uint32_t>(random, 1, 8);
    const auto how = random() % 2 == 0 ? GroupAggregate::kMax : GroupAggregate::kMean;
    const double alpha = static_cast<double>(random() % 11) / 10;
    std::vector<float> maw;
    std::vector<double> expected;
    for (size_t tokens = RandomInt<size_t>(random, 1, 20), step = 0; step < 12; ++step, ++tokens) {
      const std::vector<float> weights = RandomWeights(random, group, tokens);
      std::vector<float> a(tokens);
      AggregateGroup(how, weights, group, a);
      const size_t known = maw.size();
      maw.resize(tokens);
      UpdateMaw(static_cast<float>(alpha), a, known, maw);

      expected.resize(tokens);
      for (size_t t = 0; t < tokens; ++t) {
        double value = 0;
        for (uint32_t head = 0; head < group; ++head) {
          const double w = weights[head * tokens + t];
          value = how == GroupAggregate::kMax ? std::max(value, w) : value + w / group;
        }
        expected[t] = t < known ? alpha * value + (1 - alpha) * expected[t] : value;
      }
    }
    for (size_t t = 0; t < maw.size(); ++t) ASSERT_NEAR(maw[t], expected[t], 1e-6);
  }
}

// A of a mean group is a distribution, so the MAW of tokens that stay is one too.
TEST(MawTest, MeanKeepsTheSum) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  std::vector<float> maw(40);
  std::vector<float> a(40);
  AggregateGroup(GroupAggregate::kMean, RandomWeights(random, 4, 40), 4, maw);
  for (int step = 0; step < 20; ++step) {
    AggregateGroup(GroupAggregate::kMean, RandomWeights(random, 4, 40), 4, a);
    UpdateMaw(0.3f, a, 40, maw);
  }
  double sum = 0;
  for (const float value : maw) sum += value;
  EXPECT_NEAR(sum, 1.0, 1e-5);
}

TEST(MawTest, AppendTakesTheMeanOverQueries) {
  std::vector<float> sum(3, 0.0f);
  AddQueryWeights(std::vector<float>{1.0f, 0.0f, 0.0f}, sum);
  AddQueryWeights(std::vector<float>{0.5f, 0.25f, 0.25f}, sum);
  FinishQueryMean(2, sum);
  EXPECT_THAT(sum, ElementsAre(0.75f, 0.125f, 0.125f));
}

TEST(MawTest, SaliencesSpreadForwardOnly) {
  const std::vector<float> salience{0.1f, 0.9f, 0.2f, 0.3f, kNan, 0.5f, 0.6f, 0.7f};
  std::vector<float> spread(8);
  SpreadForward(0, salience, 0, spread);
  EXPECT_THAT(spread, ElementsAre(0.1f, 0.9f, 0.2f, 0.3f, NanSensitiveFloatEq(kNan), 0.5f, 0.6f, 0.7f));
  SpreadForward(2, salience, 0, spread);
  EXPECT_THAT(spread, ElementsAre(0.1f, 0.9f, 0.9f, 0.9f, NanSensitiveFloatEq(kNan), NanSensitiveFloatEq(kNan),
                                  NanSensitiveFloatEq(kNan), 0.7f));
  spread.resize(2);
  SpreadForward(1, salience, 6, spread);
  EXPECT_THAT(spread, ElementsAre(0.6f, 0.7f));
}

// Uniform weights are salience 1 wherever they come from, so the average of the two stays 1.
TEST(MawTest, CachedSalienceIsRelativeToUniform) {
  std::vector<float> salience(5, RelativeToUniform(1.0f / 1024, 1024));
  EXPECT_THAT(salience, Each(FloatEq(1.0f)));
  UpdateCachedSalience(0.5f, std::vector<float>(5, 0.2f), salience);
  EXPECT_THAT(salience, Each(FloatEq(1.0f)));
  salience = {kNan, 1.0f};
  UpdateCachedSalience(0.5f, std::vector<float>{0.75f, 0.25f}, salience);
  EXPECT_THAT(salience, ElementsAre(1.5f, 0.75f));
}

}  // namespace
}  // namespace tributary
