#include "policy/fluxion/head_budget.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kNothing = -std::numeric_limits<float>::infinity();

FluxionParams Params(double captured_mass, double min_block_mass, double max_budget) {
  return {.captured_mass = captured_mass,
          .min_block_mass = min_block_mass,
          .max_budget = max_budget,
          .target_output_error = 0.1};
}

HeadBudget CalibratedTo(float looseness_ln) {
  HeadBudget budget;
  budget.OnDense(looseness_ln, std::vector<float>{0, kNan, kNan, kNan});
  return budget;
}

double LseOf(const std::vector<float>& bounds) {
  double sum = 0;
  for (const float bound : bounds) sum += std::exp(double{bound});
  return std::log(sum);
}

// How many of the blocks, which descend, the rule takes, by its own words.
size_t Taken(const BlockRule& rule, const std::vector<float>& bounds) {
  const double all = std::exp(LseOf(bounds));
  size_t taken = 0;
  for (double sum = 0; taken < bounds.size() && rule.captured_share > 0 && sum < rule.captured_share * all * (1 - 1e-9);
       ++taken) {
    sum += std::exp(double{bounds[taken]});
  }
  while (taken > 0 && bounds[taken - 1] < rule.least_bound) --taken;
  return std::min<size_t>(taken, rule.max_blocks);
}

TEST(HeadBudgetTest, TheRuleIsTheSmallestSetThatHoldsTheMass) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 3);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> bounds(RandomInt(random, 1, 200));
    for (float& bound : bounds) bound = normal(random);
    std::sort(bounds.rbegin(), bounds.rend());
    const float looseness_ln = -std::abs(normal(random)), resident_ln = 4 + normal(random);
    const double captured_mass = 0.05 * RandomInt(random, 1, 20);
    const double min_block_mass = 0.01 * RandomInt(random, 0, 10), max_budget = 0.1 * RandomInt(random, 1, 10);
    const BlockBounds of_head{static_cast<float>(LseOf(bounds)), static_cast<uint32_t>(bounds.size())};
    const BlockRule rule =
        CalibratedTo(looseness_ln).RuleOf(Params(captured_mass, min_block_mass, max_budget), 0, of_head, resident_ln);
    // By the definition.
    const double c = std::exp(double{looseness_ln}), resident = std::exp(double{resident_ln});
    const double all = resident + c * std::exp(LseOf(bounds));
    size_t expected = 0;
    double held = resident;
    while (expected < bounds.size() && held < captured_mass * all * (1 - 1e-6)) {
      held += c * std::exp(double{bounds[expected++]});
    }
    while (expected > 0 && c * std::exp(double{bounds[expected - 1]}) < min_block_mass * all) --expected;
    expected = std::min<size_t>(expected, BudgetBlocks(max_budget, of_head.num_blocks));
    EXPECT_NEAR(static_cast<double>(Taken(rule, bounds)), static_cast<double>(expected), 1) << "round " << round;
  }
}

TEST(HeadBudgetTest, AHeadWhoseWindowHoldsTheMassReadsNothing) {
  const BlockBounds bounds{5, 100};
  const HeadBudget budget = CalibratedTo(-1);
  EXPECT_LE(budget.RuleOf(Params(0.9, 0, 1), 0, bounds, 7).captured_share, 0) << "e^4 of e^7";
  EXPECT_GT(budget.RuleOf(Params(0.9, 0, 1), 0, bounds, 5).captured_share, 0);
  EXPECT_EQ(budget.RuleOf(Params(1, 0, 1), 0, bounds, 7).captured_share, 1) << "all is asked for";
}

TEST(HeadBudgetTest, WithoutAResidentLseSharesAreOfTheRemoteMass) {
  const HeadBudget budget = CalibratedTo(-1);
  for (const float unknown : {kNothing, kNan}) {
    const BlockRule rule = budget.RuleOf(Params(0.9, 0.01, 1), 0, {5, 100}, unknown);
    EXPECT_NEAR(rule.captured_share, 0.9, 1e-9);
    EXPECT_NEAR(rule.least_bound, 5 + std::log(0.01), 1e-5);
  }
}

TEST(HeadBudgetTest, CalibratesEachSizeByWhatWasScored) {
  HeadBudget budget;
  EXPECT_FALSE(budget.is_calibrated());
  budget.OnDense(1, std::vector<float>{kNan, kNothing, kNan, kNan});
  EXPECT_FALSE(budget.is_calibrated()) << "there was no whole block";
  budget.OnDense(1, std::vector<float>{3, kNan, 5, kNan});
  EXPECT_TRUE(budget.is_calibrated());
  // R = e^1, c B = e^(L - 2): with L = 3 both are the same, and a share of 0.5 is there without any block.
  EXPECT_NEAR(budget.RuleOf(Params(0.5, 0, 1), 0, {3, 10}, 1).captured_share, 0, 1e-6);
  EXPECT_NEAR(budget.RuleOf(Params(0.5, 0, 1), 2, {5, 10}, 1).captured_share, 0, 1e-6);
  // Moves by a quarter of the difference.
  budget.OnDense(1, std::vector<float>{-1, kNan, kNan, kNan});
  EXPECT_NEAR(budget.RuleOf(Params(0.5, 0, 1), 0, {2, 10}, 1).captured_share, 0, 1e-6);
}

TEST(HeadBudgetTest, WhatMayBeDroppedFollowsFromErrorAndContrast) {
  HeadBudget budget = CalibratedTo(0);
  const FluxionParams params = Params(0, 0, 1);
  const auto share = [&] { return budget.RuleOf(params, 0, {0, 1000}, kNothing).captured_share; };
  EXPECT_NEAR(share(), 1 - 0.1 / 0.6, 1e-6) << "what is assumed";
  for (const double unknown : {double{kNan}, static_cast<double>(INFINITY)}) budget.OnContrast(unknown);
  EXPECT_NEAR(share(), 1 - 0.1 / 0.6, 1e-6);
  budget.OnContrast(0.4);
  EXPECT_NEAR(share(), 1 - 0.1 / 0.4, 1e-6);
  budget.OnContrast(0.8);
  EXPECT_NEAR(budget.contrast(), 0.5, 1e-6) << "a quarter of the difference";
  budget.OnSample(1, 0.1);
  EXPECT_NEAR(share(), 1 - 0.1 / 0.5 / 1.5, 1e-6);
  HeadBudget quiet = CalibratedTo(0);
  quiet.OnContrast(0);
  EXPECT_LE(quiet.RuleOf(params, 0, {0, 1000}, kNothing).captured_share, 0) << "nothing that it drops shows";
  EXPECT_EQ(quiet.RuleOf(Params(0.7, 0, 1), 0, {0, 1000}, kNothing).captured_share, 0.7) << "as asked";
}

TEST(HeadBudgetTest, PredictedSharesAreRaisedAndBounded) {
  HeadBudget budget;
  const FluxionParams params = Params(0, 0, 0.5);
  EXPECT_EQ(budget.ShareOf(params, {}, 3), 0);
  EXPECT_DOUBLE_EQ(budget.ShareOf(params, {0.125f, 0.0625f}, 2), 0.25);
  EXPECT_EQ(budget.ShareOf(params, {0.875f, 0}, 0), 0.5);
  EXPECT_EQ(budget.ShareOf(params, {kNan, 0}, 0), 0.5) << "what is no number is all, and so the most";
  budget.OnSample(1, 0.1);
  EXPECT_DOUBLE_EQ(budget.ShareOf(params, {0.125f, 0.0625f}, 2), 0.375);
  EXPECT_DOUBLE_EQ(budget.ShareOf(params, {}, 0), 0.5 / 64) << "it was said to need nothing, and missed";
  EXPECT_EQ(budget.ShareOf(params, {0.875f, 0}, 0), 0.75);
}

TEST(HeadBudgetTest, AMissRaisesAndCleanSamplesLowerSlowly) {
  HeadBudget budget = CalibratedTo(0);
  const FluxionParams params = Params(0.7, 0.03, 0.1);
  const auto rule = [&] { return budget.RuleOf(params, 0, {0, 1000}, kNothing); };
  EXPECT_EQ(rule().max_blocks, 100u);
  budget.OnSample(0.2, 0.1);
  EXPECT_EQ(rule().max_blocks, 150u);
  EXPECT_NEAR(rule().captured_share, 1 - 0.3 / 1.5, 1e-6);
  EXPECT_NEAR(rule().least_bound, std::log(0.02), 1e-5);
  budget.OnSample(0.1, 0.1);
  EXPECT_NEAR(budget.raise(), 1.5 * 0.98, 1e-6);
  for (int i = 0; i < 100; ++i) budget.OnSample(0, 0.1);
  EXPECT_EQ(budget.raise(), 1) << "never below what it began with";
  for (int i = 0; i < 100; ++i) budget.OnSample(kNan, 0.1);
  EXPECT_EQ(budget.raise(), 64);
  EXPECT_EQ(rule().max_blocks, 1000u);
}

}  // namespace
}  // namespace tributary
