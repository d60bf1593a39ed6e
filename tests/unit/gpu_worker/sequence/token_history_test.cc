#include "gpu_worker/sequence/token_history.h"

#include <map>
#include <random>
#include <set>
#include <vector>

#include "gpu_worker/sequence/sampler.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using Logits = std::vector<float>;

Logits Penalised(const TokenHistory& history, const SamplingParams& params, Logits logits) {
  history.Penalise(params, logits);
  return logits;
}

TEST(TokenHistoryTest, RepetitionIsOfPromptsAndAnswersOnBothSidesOfZero) {
  const SamplingParams params{.repetition_penalty = 2};
  TokenHistory history(5);
  history.BeginTurn(std::vector<uint32_t>{0, 1}, params, 9);
  history.AddAnswer(3);
  EXPECT_EQ(Penalised(history, params, {4, -4, 4, -6, 1}), (Logits{2, -8, 4, -12, 1}));
  history.BeginTurn(std::vector<uint32_t>{2}, params, 9);
  EXPECT_EQ(Penalised(history, params, {4, -4, 4, -6, 1}), (Logits{2, -8, 2, -12, 1})) << "earlier turns count";
}

TEST(TokenHistoryTest, PresenceAndFrequencyAreOfThisAnswerAlone) {
  const SamplingParams params{.presence_penalty = 1, .frequency_penalty = 0.5f};
  TokenHistory history(4);
  history.BeginTurn(std::vector<uint32_t>{0}, params, 9);
  for (const uint32_t token : {1u, 2u, 2u, 2u}) history.AddAnswer(token);
  EXPECT_EQ(Penalised(history, params, {1, 1, 1, 1}), (Logits{1, -0.5f, -1.5f, 1}));
  history.BeginTurn({}, params, 9);
  EXPECT_EQ(Penalised(history, params, {1, 1, 1, 1}), (Logits{1, 1, 1, 1}));
}

TEST(TokenHistoryTest, BiasComesBeforeThePenalties) {
  const SamplingParams params{.repetition_penalty = 2, .logit_bias = {{0, -3}, {1, 3}}};
  TokenHistory history(2);
  history.BeginTurn(std::vector<uint32_t>{0, 1}, params, 1);
  EXPECT_EQ(Penalised(history, params, {1, 1}), (Logits{-4, 2}));
}

// Against the rules written down one after another, over several turns.
TEST(TokenHistoryTest, AgreesWithTheRulesWrittenOut) {
  std::mt19937_64 random(TestSeed());
  for (int round = 0; round < 50; ++round) {
    const auto vocab = static_cast<uint32_t>(RandomInt(random, 1, 200));
    const SamplingParams params{.presence_penalty = 0.25f, .frequency_penalty = -0.5f, .repetition_penalty = 1.5f};
    TokenHistory history(vocab);
    std::set<uint32_t> seen;
    std::map<uint32_t, int> in_answer;
    for (int turn = 0; turn < 3; ++turn) {
      in_answer.clear();
      std::vector<uint32_t> prompt(static_cast<size_t>(RandomInt(random, 0, 20)));
      for (uint32_t& token : prompt) token = static_cast<uint32_t>(RandomInt(random, 0, static_cast<int>(vocab) - 1));
      seen.insert(prompt.begin(), prompt.end());
      history.BeginTurn(prompt, params, 30);
      for (int i = 0; i < 30; ++i) {
        const auto token = static_cast<uint32_t>(RandomInt(random, 0, static_cast<int>(vocab) - 1));
        history.AddAnswer(token);
        seen.insert(token);
        ++in_answer[token];
      }
      Logits logits(vocab), expected(vocab);
      for (uint32_t t = 0; t < vocab; ++t) {
        logits[t] = static_cast<float>(RandomInt(random, -400, 400)) / 64;
        expected[t] = logits[t];
        if (seen.contains(t)) expected[t] = logits[t] > 0 ? logits[t] / 1.5f : logits[t] * 1.5f;
        if (in_answer.contains(t)) expected[t] -= 0.25f - 0.5f * static_cast<float>(in_answer[t]);
      }
      EXPECT_EQ(Penalised(history, params, logits), expected);
    }
  }
}

TEST(TokenHistoryTest, GreedyFollowsThePenaltiesAndReportsTheModelsProbability) {
  const Logits logits = {2, 3, 1};
  const SamplingParams params{.presence_penalty = 2};
  TokenHistory history(3);
  history.BeginTurn({}, params, 9);
  EXPECT_EQ(Sample(logits, params, 0, history).token, 1u);
  history.AddAnswer(1);
  const SampledToken second = Sample(logits, params, 1, history);
  EXPECT_EQ(second.token, 0u);
  EXPECT_EQ(second.logprob, LogProb(logits, 0));
  EXPECT_EQ(Sample(logits, {.logit_bias = {{2, 100}}}, 0).token, 2u) << "a bias needs no history";
}

}  // namespace
}  // namespace tributary
