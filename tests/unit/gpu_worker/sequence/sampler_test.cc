#include "gpu_worker/sequence/sampler.h"

#include <cmath>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

const std::vector<float> kLogits = {0.5f, 3.0f, -1.0f, 2.0f, 3.0f, 0.0f};

TEST(SamplerTest, GreedyTakesTheLowerIdOnATie) {
  EXPECT_EQ(Sample(kLogits, {}, 7).token, 1u);
  EXPECT_EQ(Sample(kLogits, {.temperature = 2, .top_k = 1, .seed = 3}, 7).token, 1u);
}

TEST(SamplerTest, LogProbIsOfTheModelItself) {
  double sum = 0;
  for (float logit : kLogits) sum += std::exp(static_cast<double>(logit));
  EXPECT_NEAR(LogProb(kLogits, 3), 2.0 - std::log(sum), 1e-12);
  const SampledToken sampled = Sample(kLogits, {.temperature = 0.3f, .top_k = 2, .seed = 5}, 1);
  EXPECT_NEAR(sampled.logprob, 3.0 - std::log(sum), 1e-6);
}

TEST(SamplerTest, SameSeedAndPositionGiveTheSameToken) {
  std::set<uint32_t> seen;
  for (uint64_t position = 0; position < 200; ++position) {
    const SamplingParams params{.temperature = 5, .seed = 11};
    const uint32_t token = Sample(kLogits, params, position).token;
    EXPECT_EQ(token, Sample(kLogits, params, position).token);
    seen.insert(token);
  }
  EXPECT_EQ(seen.size(), kLogits.size());
}

TEST(SamplerTest, FrequenciesFollowTheTemperedDistribution) {
  const SamplingParams params{.temperature = 2, .seed = 99};
  constexpr int kDraws = 40000;
  std::vector<double> frequency(kLogits.size());
  for (int i = 0; i < kDraws; ++i) frequency[Sample(kLogits, params, i).token] += 1.0 / kDraws;
  double total = 0;
  for (float logit : kLogits) total += std::exp(logit / 2.0);
  for (size_t i = 0; i < kLogits.size(); ++i) EXPECT_NEAR(frequency[i], std::exp(kLogits[i] / 2.0) / total, 0.012);
}

TEST(SamplerTest, CutsKeepTheMostLikely) {
  std::set<uint32_t> top_k, top_p;
  for (uint64_t position = 0; position < 500; ++position) {
    top_k.insert(Sample(kLogits, {.temperature = 9, .top_k = 3, .seed = 1}, position).token);
    // p(1) = p(4) = 0.38, p(3) = 0.14 at temperature 1: 0.7 needs the first two.
    top_p.insert(Sample(kLogits, {.temperature = 1, .top_p = 0.7f, .seed = 1}, position).token);
  }
  EXPECT_EQ(top_k, (std::set<uint32_t>{1, 3, 4}));
  EXPECT_EQ(top_p, (std::set<uint32_t>{1, 4}));
}

TEST(SamplerTest, MinPKeepsAShareOfTheLikeliest) {
  // Beside p(1) = p(4): p(3) is e^-1 = 0.368 of it, p(0) e^-2.5 = 0.082, p(5) e^-3 = 0.0498, p(2) e^-4.
  const auto drawn = [](SamplingParams params) {
    std::set<uint32_t> tokens;
    params.temperature = 1;
    for (params.seed = 0; params.seed < 2000; ++params.seed) tokens.insert(Sample(kLogits, params, 1).token);
    return tokens;
  };
  EXPECT_EQ(drawn({.min_p = 0.07f}), (std::set<uint32_t>{0, 1, 3, 4}));
  EXPECT_EQ(drawn({.min_p = 0.3f}), (std::set<uint32_t>{1, 3, 4}));
  EXPECT_EQ(drawn({.min_p = 1}), (std::set<uint32_t>{1, 4})) << "the likeliest are always left";
  EXPECT_EQ(drawn({.top_k = 4, .min_p = 0.01f}), (std::set<uint32_t>{0, 1, 3, 4})) << "cuts come together";
  EXPECT_EQ(drawn({.top_p = 0.7f, .min_p = 0.01f}), (std::set<uint32_t>{1, 4}));
}

TEST(SamplerTest, MinPThatCutsNothingChangesNothing) {
  for (uint64_t position = 0; position < 200; ++position) {
    const SamplingParams params{.temperature = 5, .seed = 11};
    SamplingParams same = params;
    same.min_p = 1e-6f;
    EXPECT_EQ(Sample(kLogits, params, position).token, Sample(kLogits, same, position).token);
  }
}

TEST(SamplerTest, BadParametersAreNamed) {
  EXPECT_NE(Validate(SamplingParams{.temperature = -1}).message().find("-1"), std::string::npos);
  EXPECT_FALSE(Validate(SamplingParams{.temperature = NAN}).ok());
  EXPECT_FALSE(Validate(SamplingParams{.top_p = 1.5f}).ok());
  EXPECT_TRUE(Validate(SamplingParams{.temperature = 1, .top_k = 5, .top_p = 1}).ok());
  const auto message = [](SamplingParams params) { return std::string(Validate(params).message()); };
  EXPECT_NE(message({.min_p = 1.5f}).find("min_p is 1.5"), std::string::npos);
  EXPECT_NE(message({.min_p = NAN}).find("min_p is nan"), std::string::npos);
  EXPECT_NE(message({.presence_penalty = 3}).find("presence_penalty is 3"), std::string::npos);
  EXPECT_NE(message({.frequency_penalty = NAN}).find("frequency_penalty is nan"), std::string::npos);
  EXPECT_NE(message({.repetition_penalty = -1}).find("repetition_penalty is -1"), std::string::npos);
  EXPECT_NE(message({.repetition_penalty = 1e-38f}).find("use a number from 0.01 to 100"), std::string::npos);
  EXPECT_NE(message({.repetition_penalty = 101}).find("repetition_penalty is 101"), std::string::npos);
  EXPECT_NE(message({.repetition_penalty = NAN}).find("repetition_penalty is nan"), std::string::npos);
  EXPECT_TRUE(Validate(SamplingParams{.repetition_penalty = 0.01f}).ok());
  EXPECT_NE(message({.logit_bias = {{7, 101}}}).find("token 7 is 101"), std::string::npos);
  EXPECT_NE(message({.logit_bias = {{7, 1}, {7, 2}}}).find("token 7 twice"), std::string::npos);
  EXPECT_NE(message({.logit_bias = std::vector<LogitBias>(2000)}).find("names 2000 tokens"), std::string::npos);
  EXPECT_TRUE(Validate(SamplingParams{.min_p = 1, .presence_penalty = -2, .repetition_penalty = 1.3f}).ok());
}

// Against a softmax that is worked out the long way round.
TEST(SamplerTest, LikeliestTokensCarryTheLogSoftmax) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  std::vector<float> logits(RandomInt<size_t>(random, 1, 3000));
  const float spread = std::uniform_real_distribution<float>(0.1f, 40.0f)(random);
  for (float& logit : logits) logit = std::normal_distribution<float>(0, spread)(random);
  logits.back() = logits.front();  // a tie
  if (logits.size() > 9) logits[8] = -INFINITY;
  long double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));

  const TopTokens all = LikeliestTokens(logits, static_cast<uint32_t>(logits.size() + 5));
  ASSERT_EQ(all.tokens.size(), logits.size());
  ASSERT_EQ(all.logprobs.size(), logits.size());
  EXPECT_EQ(std::set<uint32_t>(all.tokens.begin(), all.tokens.end()).size(), logits.size());
  double mass = 0;
  for (size_t i = 0; i < all.tokens.size(); ++i) {
    const uint32_t token = all.tokens[i];
    if (i > 0 && logits[all.tokens[i - 1]] == logits[token]) {
      EXPECT_LT(all.tokens[i - 1], token);
    } else if (i > 0) {
      EXPECT_GT(logits[all.tokens[i - 1]], logits[token]);
    }
    EXPECT_EQ(all.logprobs[i], static_cast<float>(LogProb(logits, token)));
    mass += std::exp(double{all.logprobs[i]});
    if (std::isinf(logits[token])) continue;
    const double expected = static_cast<double>(logits[token] - std::log(sum));
    EXPECT_NEAR(all.logprobs[i], expected, 1e-6 * (1 + std::abs(expected)));
  }
  EXPECT_NEAR(mass, 1, 1e-4);
  EXPECT_EQ(all.tokens[0], Sample(logits, {}, 0).token);

  const auto count = RandomInt<uint32_t>(random, 0, static_cast<uint32_t>(logits.size()));
  const TopTokens some = LikeliestTokens(logits, count);
  EXPECT_EQ(some.tokens, std::vector<uint32_t>(all.tokens.begin(), all.tokens.begin() + count));
  EXPECT_EQ(some.logprobs, std::vector<float>(all.logprobs.begin(), all.logprobs.begin() + count));
}

TEST(SamplerTest, LogitsThatAreNotFiniteGiveANanLogProb) {
  EXPECT_TRUE(std::isnan(Sample(std::vector<float>{1, NAN, 2}, {}, 0).logprob));
}

}  // namespace
}  // namespace tributary
