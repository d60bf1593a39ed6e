#include "client/eval/agreement.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

std::vector<double> LogSoftmax(const std::vector<double>& logits) {
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  std::vector<double> logprobs;
  for (const double logit : logits) logprobs.push_back(logit - std::log(sum));
  return logprobs;
}

std::vector<double> RandomLogits(std::mt19937_64& random, size_t count, double spread) {
  std::vector<double> logits(count);
  for (double& logit : logits) logit = std::normal_distribution<>(0, spread)(random);
  return logits;
}

// The `count` likeliest of them, as a reply has them.
v1::TopLogprobs Top(const std::vector<double>& logprobs, size_t count) {
  std::vector<uint32_t> order(logprobs.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logprobs[a] > logprobs[b]; });
  v1::TopLogprobs top;
  for (size_t i = 0; i < count; ++i) {
    top.add_tokens(order[i]);
    top.add_logprobs(static_cast<float>(logprobs[order[i]]));
  }
  return top;
}

TokenDistribution Distribution(const std::vector<double>& logprobs, size_t count) {
  auto distribution = DistributionFromProto(Top(logprobs, count));
  EXPECT_TRUE(distribution.ok()) << distribution.status();
  return *distribution;
}

class KlTest : public ::testing::Test {
 protected:
  const uint64_t seed_ = TestSeed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
};

TEST_F(KlTest, OfWholeVocabulariesIsTheSumItself) {
  const auto vocab = RandomInt<uint32_t>(random_, 2, 300);
  const double spread = std::uniform_real_distribution<>(0.1, 5)(random_);
  const std::vector<double> p = LogSoftmax(RandomLogits(random_, vocab, spread));
  const std::vector<double> q = LogSoftmax(RandomLogits(random_, vocab, spread));
  double expected = 0;
  for (uint32_t i = 0; i < vocab; ++i) expected += std::exp(p[i]) * (p[i] - q[i]);
  const Divergence kl = KlDivergence(Distribution(p, vocab), Distribution(q, vocab), vocab);
  EXPECT_TRUE(kl.is_exact);
  EXPECT_NEAR(kl.kl, expected, 1e-5 * (1 + expected));
  EXPECT_EQ(KlDivergence(Distribution(p, vocab), Distribution(p, vocab), vocab).kl, 0);
}

TEST_F(KlTest, OfTheLikeliestIsALowerBoundThatGrowsWithTheirNumber) {
  const auto vocab = RandomInt<uint32_t>(random_, 20, 300);
  const double spread = std::uniform_real_distribution<>(0.5, 3)(random_);
  const std::vector<double> logits = RandomLogits(random_, vocab, spread);
  std::vector<double> moved = logits;
  for (double& logit : moved) logit += std::normal_distribution<>(0, 0.5)(random_);
  const std::vector<double> p = LogSoftmax(logits);
  const std::vector<double> q = LogSoftmax(moved);
  const double exact = KlDivergence(Distribution(p, vocab), Distribution(q, vocab), vocab).kl;
  double last = 0;
  for (uint32_t count = 1; count < vocab; ++count) {
    const Divergence kl = KlDivergence(Distribution(p, count), Distribution(q, count), vocab);
    EXPECT_FALSE(kl.is_exact);
    EXPECT_GE(kl.kl, last - 5e-5) << count;  // a finer partition
    EXPECT_LE(kl.kl, exact + 5e-5) << count;
    last = kl.kl;
  }
  EXPECT_GT(last, 0);
}

TEST_F(KlTest, ImpossibleTokens) {
  const double none = -INFINITY;
  const std::vector<double> p = {std::log(0.5), std::log(0.5), none};
  const std::vector<double> q = {std::log(0.25), std::log(0.25), std::log(0.5)};
  EXPECT_NEAR(KlDivergence(Distribution(p, 3), Distribution(q, 3), 3).kl, std::log(2), 1e-6);
  EXPECT_TRUE(std::isinf(KlDivergence(Distribution(q, 3), Distribution(p, 3), 3).kl));
  // All of p in what both know, nothing left over: no bucket that rounding fills.
  const TokenDistribution sure = Distribution({0.0, -50.0, -51.0}, 1);
  EXPECT_NEAR(KlDivergence(sure, sure, 3).kl, 0, 1e-6);
}

TEST_F(KlTest, NothingIsExactWithoutAKnownVocabulary) {
  const TokenDistribution p = Distribution(LogSoftmax({1, 2, 3}), 3);
  EXPECT_FALSE(KlDivergence(p, p, 0).is_exact);
  EXPECT_NEAR(KlDivergence(p, p, 0).kl, 0, 1e-6);
}

TEST(DistributionTest, WhatIsNoDistributionIsRefused) {
  const auto message = [](std::vector<uint32_t> tokens, std::vector<float> logprobs) {
    v1::TopLogprobs top;
    top.mutable_tokens()->Add(tokens.begin(), tokens.end());
    top.mutable_logprobs()->Add(logprobs.begin(), logprobs.end());
    return std::string(DistributionFromProto(top).status().message());
  };
  EXPECT_THAT(message({}, {}), HasSubstr("0 tokens"));
  EXPECT_THAT(message({1, 2}, {-1}), HasSubstr("2 tokens with 1"));
  EXPECT_THAT(message({1, 2, 1}, {-1, -2, -3}), HasSubstr("token 1 comes twice"));
  EXPECT_THAT(message({5}, {0.5f}), HasSubstr("token 5 is 0.5"));
  EXPECT_THAT(message({5}, {NAN}), HasSubstr("token 5 is nan"));
  EXPECT_EQ(message({7, 3}, {-0.5f, -1.0f}), "");
}

TEST(CompareTest, LogprobsPositionByPosition) {
  const std::vector<float> here{-1.0f, -2.0f, -3.0f};
  const std::vector<float> dense{-1.0f, -2.5f, -2.0f};
  const Agreement agreement = Compare({here, {}}, {dense, {}}, 256);
  EXPECT_EQ(agreement.positions, 3u);
  EXPECT_DOUBLE_EQ(agreement.logprob_abs_diff_mean, 0.5);
  EXPECT_DOUBLE_EQ(agreement.logprob_abs_diff_max, 1.0);
  EXPECT_TRUE(agreement.kl.empty());
}

TEST(CompareTest, DistributionsPositionByPosition) {
  const std::vector<float> scored{-1.0f, -1.0f};
  const std::vector<TokenDistribution> dense{Distribution(LogSoftmax({0, 1, 2}), 3),
                                             Distribution(LogSoftmax({0, 1, 2}), 3)};
  const std::vector<TokenDistribution> here{Distribution(LogSoftmax({0, 1, 2}), 3),
                                            Distribution(LogSoftmax({2, 1, 0}), 3)};
  const Agreement agreement = Compare({scored, here}, {scored, dense}, 3);
  ASSERT_EQ(agreement.kl.size(), 2u);
  EXPECT_EQ(agreement.kl[0], 0);
  // p = (0.0900, 0.2447, 0.6652), q the other way round: (0.6652 - 0.0900) * 2.
  EXPECT_NEAR(agreement.kl[1], 1.1504, 1e-4);
  EXPECT_NEAR(agreement.kl_mean, 0.5752, 1e-4);
  EXPECT_EQ(agreement.kl_max, agreement.kl[1]);
  EXPECT_TRUE(agreement.kl_is_exact);
  EXPECT_EQ(agreement.top1_agreement, 0.5);
  EXPECT_FALSE(Compare({scored, here}, {scored, dense}, 4).kl_is_exact);
}

}  // namespace
}  // namespace tributary
