#include "cpu_attention_service/policy/fluxion/head_choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "tests/unit/cpu_attention_service/policy/fluxion/fluxion_fixture.h"

namespace tributary {
namespace {

class HeadChoiceTest : public testing::FluxionFixture {
 protected:
  static constexpr uint64_t kTokens = 2000;

  void SetUp() override {
    Open({}, kTokens);
    StoreAll();
  }
  BlockQuery Query(uint32_t block_tokens, TokenRange local) {
    return {.summaries = shard_->FindSummaries(FluxionSummary(block_tokens)),
            .stream = shard_->SummaryStream(kLayer, 1),
            .local = local,
            .q = std::span(q_).subspan(kGroup * kShape.head_dim),
            .softmax_scale = kScale};
  }
  HeadChoice Scored(uint32_t block_tokens, TokenRange local) {
    HeadChoice choice(&block_selection::Best(), kGroup, kTokens / 16 + 2);
    choice.Score(Query(block_tokens, local));
    return choice;
  }
  TokenRange RandomRange() {
    const auto begin = RandomInt<uint64_t>(random_, 0, kTokens);
    return {begin, RandomInt<uint64_t>(random_, begin, kTokens)};
  }
  // Whole blocks, best first; of the same score the earlier one.
  static std::vector<uint32_t> Ranked(std::span<const float> scores) {
    std::vector<uint32_t> ids;
    for (uint32_t id = 0; id < scores.size(); ++id) {
      if (scores[id] < INFINITY) ids.push_back(id);
    }
    std::stable_sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) { return scores[a] > scores[b]; });
    return ids;
  }
  // The first `count` of them and the ragged blocks.
  static std::vector<uint32_t> WithRagged(std::span<const float> scores, size_t count) {
    std::vector<uint32_t> ids = Ranked(scores);
    ids.resize(std::min(count, ids.size()));
    for (uint32_t id = 0; id < scores.size(); ++id) {
      if (scores[id] == INFINITY) ids.push_back(id);
    }
    std::sort(ids.begin(), ids.end());
    return ids;
  }
};

TEST_F(HeadChoiceTest, TheBestOfThemAndAlwaysTheRaggedOnes) {
  for (int round = 0; round < 100; ++round) {
    const uint32_t block_tokens = 16u << (random_() % 4);
    HeadChoice choice = Scored(block_tokens, RandomRange());
    for (uint32_t row = 0; row < kGroup; ++row) {
      const auto k = RandomInt<uint32_t>(random_, 0, choice.num_whole_blocks());
      choice.ChooseBest(row, k);
      const auto chosen = choice.chosen(row);
      EXPECT_EQ(std::vector(chosen.begin(), chosen.end()), WithRagged(choice.scores(row), k));
    }
  }
}

TEST_F(HeadChoiceTest, NothingWholeIsTheBestOfNone) {
  for (int round = 0; round < 200; ++round) {
    const uint32_t block_tokens = 16u << (random_() % 4);
    const auto begin = RandomInt<uint64_t>(random_, 0, kTokens);
    const TokenRange local{begin, std::min(kTokens, begin + RandomInt<uint64_t>(random_, 0, 3 * block_tokens))};
    SCOPED_TRACE(::testing::Message() << "[" << local.begin << ", " << local.end << ") by " << block_tokens);
    HeadChoice best = Scored(block_tokens, local), nothing = Scored(16, {0, kTokens});
    nothing.ChooseNothingWhole(Query(block_tokens, local));
    for (uint32_t row = 0; row < kGroup; ++row) {
      best.ChooseBest(row, 0);
      const auto expected = best.chosen(row), chosen = nothing.chosen(row);
      EXPECT_EQ(std::vector(chosen.begin(), chosen.end()), std::vector(expected.begin(), expected.end()));
    }
    EXPECT_EQ(nothing.UnionTokens(), best.UnionTokens());
  }
}

TEST_F(HeadChoiceTest, ANarrowerScoreIsOfCentreAndExtent) {
  for (const uint32_t block_tokens : {16u, 128u}) {
    const TokenRange local{37, 1990};
    const HeadChoice bounds = Scored(block_tokens, local);
    for (const float spread : {0.0f, 0.2f, 0.7f}) {
      HeadChoice choice(&block_selection::Best(), kGroup, kTokens / 16 + 2);
      BlockQuery query = Query(block_tokens, local);
      query.spread = spread;
      choice.Score(query);
      ASSERT_EQ(choice.num_blocks(), bounds.num_blocks());
      for (uint32_t row = 0; row < kGroup; ++row) {
        for (uint32_t b = 0; b < choice.num_blocks(); ++b) {
          const uint64_t first = (local.begin / block_tokens + b) * block_tokens;
          if (first < local.begin || first + block_tokens > local.end) {
            EXPECT_EQ(choice.scores(row)[b], INFINITY) << "not whole";
            continue;
          }
          double score = 0, error = 0;
          for (uint32_t d = 0; d < kShape.head_dim; ++d) {
            double low = INFINITY, high = -INFINITY;
            for (uint64_t token = first; token < first + block_tokens; ++token) {
              low = std::min(low, double{KeyAt(token, 1)[d]});
              high = std::max(high, double{KeyAt(token, 1)[d]});
            }
            const double q{q_[(kGroup + row) * kShape.head_dim + d]};
            score += q * (low + high) / 2 + double{spread} * std::abs(q) * (high - low) / 2;
            error += std::abs(q);
          }
          // An int8 code is off by at most the block's step, which is below 6 / 127 here.
          EXPECT_NEAR(choice.scores(row)[b], double{kScale} * score, double{kScale} * error * 6 / 127 + 0.02);
        }
      }
    }
  }
}

TEST_F(HeadChoiceTest, TheRuleInF64) {
  for (int round = 0; round < 100; ++round) {
    HeadChoice choice = Scored(16u << (random_() % 4), RandomRange());
    for (uint32_t row = 0; row < kGroup; ++row) {
      const std::span<const float> scores = choice.scores(row);
      const std::vector<uint32_t> ranked = Ranked(scores);
      double all = 0;
      for (const uint32_t id : ranked) all += std::exp(double{scores[id]});
      const BlockBounds bounds = choice.Bounds(row);
      ASSERT_EQ(bounds.num_blocks, ranked.size());
      if (ranked.empty()) {
        EXPECT_EQ(bounds.lse_ln, -INFINITY);
      } else {
        EXPECT_NEAR(bounds.lse_ln, std::log(all), 1e-4);
      }
      BlockRule rule{.captured_share = 0.1 * RandomInt(random_, -1, 11)};
      if (random_() % 2 == 0) rule.max_blocks = RandomInt<uint32_t>(random_, 0, bounds.num_blocks + 1);
      if (random_() % 2 == 0 && !ranked.empty()) rule.least_bound = scores[ranked[random_() % ranked.size()]];
      choice.ChooseByRule(row, rule);
      size_t expected = 0;
      for (double sum = 0; expected < ranked.size() && sum < rule.captured_share * all; ++expected) {
        sum += std::exp(double{scores[ranked[expected]]});
      }
      if (rule.captured_share >= 1) expected = ranked.size();
      while (expected > 0 && scores[ranked[expected - 1]] < rule.least_bound) --expected;
      expected = std::min<size_t>(expected, rule.max_blocks);
      // Sums are rounded to 2^-24 of the largest weight: one block more or less at the edge of the share.
      const auto is = [&](size_t count) {
        const auto chosen = choice.chosen(row);
        return std::vector(chosen.begin(), chosen.end()) == WithRagged(scores, count);
      };
      EXPECT_TRUE(is(expected) || is(expected + 1) || (expected > 0 && is(expected - 1))) << expected;
    }
  }
}

TEST_F(HeadChoiceTest, ABoundIsAtLeastWhatItsTokensScore) {
  const TokenRange local{0, kTokens};
  const HeadChoice choice = Scored(16, local);
  const auto* const keys = reinterpret_cast<const float*>(kv_.k.data());
  for (uint64_t token = 0; token < kTokens; ++token) {
    double score = 0, q_norm = 0, k_norm = 0;
    for (uint32_t d = 0; d < kShape.head_dim; ++d) {
      const double q = q_[kGroup * kShape.head_dim + d], k = keys[(token * 2 + 1) * kShape.head_dim + d];
      score += q * k;
      q_norm += q * q;
      k_norm += k * k;
    }
    // The query is rounded to int8.
    const double rounding = std::sqrt(q_norm * k_norm) * 0.02;
    ASSERT_GE(choice.scores(0)[token / 16], (score - rounding) * kScale) << token;
  }
}

TEST_F(HeadChoiceTest, PiecesAreEachRowsOwnBlocks) {
  for (int round = 0; round < 50; ++round) {
    const uint32_t block_tokens = 16u << (random_() % 4);
    const TokenRange local = RandomRange();
    HeadChoice choice = Scored(block_tokens, local);
    std::vector<std::set<uint64_t>> expected(kGroup);
    std::set<uint64_t> of_any;
    for (uint32_t row = 0; row < kGroup; ++row) {
      choice.ChooseBest(row, RandomInt<uint32_t>(random_, 0, choice.num_whole_blocks()));
      for (const uint32_t id : choice.chosen(row)) {
        const uint64_t first = (local.begin / block_tokens + id) * block_tokens;
        for (uint64_t t = std::max(first, local.begin); t < std::min(first + block_tokens, local.end); ++t) {
          expected[row].insert(t);
          of_any.insert(t);
        }
      }
    }
    EXPECT_EQ(choice.UnionTokens(), of_any.size());
    const HeadRead read = choice.Read();
    EXPECT_EQ(read.NumTokens(), of_any.size());
    if (!read.tokens.empty()) {
      EXPECT_EQ(read.tokens, local);
      EXPECT_EQ(of_any.size(), local.size());
      continue;
    }
    std::vector<std::set<uint64_t>> seen(kGroup);
    for (size_t i = 0; i < read.pieces.pieces.size(); ++i) {
      for (uint32_t row = 0; row < kGroup; ++row) {
        for (uint64_t t = 0; t < 64; ++t) {
          if ((read.pieces.row_masks[i * kGroup + row] >> t & 1) != 0)
            seen[row].insert(read.pieces.pieces[i].tile * 64 + t);
        }
      }
    }
    EXPECT_EQ(seen, expected);
  }
}

}  // namespace
}  // namespace tributary
