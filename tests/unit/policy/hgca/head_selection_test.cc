#include "policy/hgca/head_selection.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "policy/hgca/hgca.h"
#include "policy/hgca/maw.h"
#include "tests/unit/policy/plain_selection.h"

namespace tributary {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::FloatEq;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(HeadSelectionTest, BlocksJoinInOrder) {
  HeadSelection head;
  EXPECT_THAT(head.OnSpill({.threshold = 0.5}, std::vector<float>{0.1f, 0.6f, 0.7f}, 4), ElementsAre(1, 2));
  EXPECT_THAT(head.OnSpill({.threshold = 0.5}, std::vector<float>{0.9f, 0.2f}, 2), ElementsAre(0));
  EXPECT_THAT(head.tokens(), ElementsAre(1, 2, 3));
  EXPECT_THAT(head.salience(), ElementsAre(FloatEq(2.4f), FloatEq(2.8f), FloatEq(1.8f)));
  EXPECT_EQ(head.num_seen(), 5u);
}

TEST(HeadSelectionTest, ADroppedTokenReturnsWhenItIsAttendedTo) {
  HeadSelection head;
  head.OnSpill({.threshold = 0.5}, std::vector<float>{0.1f, 0.6f, 0.7f}, 3);
  head.OnAppend({.threshold = 0.5}, std::vector<float>{0.9f, 0.05f, 0.03f, 0.02f});
  EXPECT_THAT(head.tokens(), ElementsAre(0));
  EXPECT_THAT(head.salience(), ElementsAre(FloatEq(3.6f)));
  EXPECT_EQ(head.num_seen(), 4u);
}

TEST(HeadSelectionTest, DistillingKeepsRowsInOrder) {
  HeadSelection head;
  head.OnSpill({}, std::vector<float>{1, 4, 2, 3}, 1);
  EXPECT_THAT(head.Distil({.threshold = 9, .keep_min = 2}), ElementsAre(1, 3));
  EXPECT_THAT(head.tokens(), ElementsAre(1, 3));
  EXPECT_THAT(head.salience(), ElementsAre(4.0f, 3.0f));
}

// A token that came in salient but that the node's own softmax ignores goes when the cache is full; one that it attends
// to stays.
TEST(HeadSelectionTest, TheNodesOwnWeightsDecideWhoStays) {
  HeadSelection head;
  head.OnSpill({}, std::vector<float>{0.3f, 0.2f, 0.2f, 0.3f}, 4);
  for (int step = 0; step < 20; ++step) {
    head.OnAttended(0.5f, std::vector<float>{0.0f, 0.5f, 0.5f, 0.0f});
  }
  head.Distil({.threshold = 1.0});
  EXPECT_THAT(head.tokens(), ElementsAre(1, 2));
}

TEST(HeadSelectionTest, WhatFollowsASalientTokenIsKeptOverBlockBorders) {
  HeadSelection head(2);
  EXPECT_THAT(head.OnSpill({.threshold = 0.5}, std::vector<float>{0.9f, 0, 0, 0, 0, 0.8f}, 10),
              ElementsAre(0, 1, 2, 5));
  // Of 5 resident tokens: 0.8 of 10 is 1.6 of 5.
  EXPECT_THAT(head.OnSpill({.threshold = 1.5}, std::vector<float>{0, 0, 0, 0}, 5), ElementsAre(0, 1));
  EXPECT_THAT(head.tokens(), ElementsAre(0, 1, 2, 5, 6, 7));
  // Distilling to the most salient passage keeps what follows it.
  head.Distil({.threshold = 8.5});
  EXPECT_THAT(head.tokens(), ElementsAre(0, 1, 2));
  head.OnAppend({.threshold = 0.5}, std::vector<float>{0, 0, 0.9f, 0, 0, 0, 0, 0, 0, 0.7f});
  EXPECT_THAT(head.tokens(), ElementsAre(2, 3, 4, 9));
  EXPECT_THAT(head.OnSpill({.threshold = 0.5}, std::vector<float>{0, 0, 0}, 10), ElementsAre(0, 1));
}

TEST(HeadSelectionTest, NanMawIsKeptAndHeals) {
  HeadSelection head;
  head.OnSpill({.threshold = 0.5}, std::vector<float>{kNan, 0.1f, 0.6f}, 2);
  EXPECT_THAT(head.tokens(), ElementsAre(0, 2));
  head.OnAttended(0.5f, std::vector<float>{0.1f, 0.9f});
  EXPECT_THAT(head.salience(), ElementsAre(FloatEq(0.2f), FloatEq(1.5f)));
}

// Random lives of a head: spills, attention, appends, a bounded cache; beside a plain model that keeps sets of tokens.
class RandomLife {
 public:
  RandomLife(std::mt19937_64& random, const HgcaPolicy& policy, const HgcaParams& params)
      : random_(random),
        policy_(policy),
        alpha_(static_cast<float>(params.alpha)),
        limit_(params.max_cache_tokens),
        keep_next_(params.keep_next),
        head_(params.keep_next) {}

  void Spill() {
    const auto resident = RandomInt<uint64_t>(random_, 1, 2000);
    std::vector<float> maw = RandomSalience(random_, RandomInt<size_t>(random_, 1, 64));
    for (float& value : maw) value /= static_cast<float>(resident) / 8;
    const SelectionRule rule = *policy_.RuleAt(HgcaMoment::kSpill, resident);
    const size_t first = seen_.size();
    for (const float value : maw) seen_.push_back(value * static_cast<float>(resident));
    std::vector<float> spread;
    for (size_t i = 0; i < maw.size(); ++i) {
      std::vector<float> passage{maw[i]};
      for (size_t t = first + i - std::min<size_t>(first + i, keep_next_); t < first + i; ++t) {
        passage.push_back(t < first ? seen_[t] / static_cast<float>(resident) : maw[t - first]);
      }
      spread.push_back(Largest(passage));
    }
    const std::vector<uint32_t> kept = PlainSelection(rule, spread);
    for (const uint32_t offset : kept) expected_.insert(head_.num_seen() + offset);
    EXPECT_THAT(head_.OnSpill(rule, maw, resident), ElementsAreArray(kept));
    Bound();
  }

  void Attend() {
    std::vector<float> weights = RandomSalience(random_, head_.tokens().size());
    head_.OnAttended(alpha_, weights);
  }

  void Append() {
    const size_t stored = head_.num_seen() + random_() % 32;
    if (stored == 0) return;
    std::vector<float> weights = RandomSalience(random_, stored);
    const auto attended = static_cast<uint32_t>(random_() % stored);
    weights[attended] = 1e6f;  // by anybody's standard
    const SelectionRule rule = *policy_.RuleAt(HgcaMoment::kAppend, stored);
    std::vector<float> spread;
    for (size_t t = 0; t < stored; ++t) {
      const size_t begin = t - std::min<size_t>(t, keep_next_);
      spread.push_back(Largest({weights.begin() + static_cast<std::ptrdiff_t>(begin),
                                weights.begin() + static_cast<std::ptrdiff_t>(t) + 1}));
    }
    const std::vector<uint32_t> kept = PlainSelection(rule, spread);
    expected_ = {kept.begin(), kept.end()};
    seen_.clear();
    for (const float w : weights) seen_.push_back(w * static_cast<float>(stored));
    head_.OnAppend(rule, weights);
    if (rule.keep_max >= stored) {
      EXPECT_THAT(head_.tokens(), Contains(attended));  // dropped before or not
    }
    Bound();
  }

  void Check() {
    ASSERT_THAT(head_.tokens(), ElementsAreArray(expected_));  // a set: ascending
    ASSERT_EQ(head_.salience().size(), head_.tokens().size());
    if (limit_ != 0) {
      ASSERT_LE(head_.tokens().size(), limit_);
    }
    if (!expected_.empty()) {
      ASSERT_LT(*expected_.rbegin(), head_.num_seen());
    }
  }

 private:
  static float Largest(const std::vector<float>& values) {
    float most = values[0];
    for (const float value : values) {
      if (std::isnan(value)) return value;
      most = std::max(most, value);
    }
    return most;
  }

  void Bound() {
    if (head_.tokens().empty()) return;
    const auto rule = policy_.RuleAt(HgcaMoment::kCacheFull, head_.tokens().size());
    if (!rule.has_value()) return;
    const std::vector<uint32_t> before(head_.tokens().begin(), head_.tokens().end());
    const std::vector<float> salience(head_.salience().begin(), head_.salience().end());
    std::vector<float> spread;
    for (size_t row = 0; row < before.size(); ++row) {
      std::vector<float> passage;
      for (size_t other = 0; other <= row; ++other) {
        if (before[row] - before[other] <= keep_next_) passage.push_back(salience[other]);
      }
      spread.push_back(Largest(passage));
    }
    const std::vector<uint32_t> rows = PlainSelection(*rule, spread);
    expected_.clear();
    for (const uint32_t row : rows) expected_.insert(before[row]);
    EXPECT_THAT(head_.Distil(*rule), ElementsAreArray(rows));
  }

  std::mt19937_64& random_;
  const HgcaPolicy& policy_;
  const float alpha_;
  const uint64_t limit_;
  const uint32_t keep_next_;
  HeadSelection head_;
  std::set<uint32_t> expected_;
  std::vector<float> seen_;  // saliences of all tokens, relative to uniform, as they came
};

TEST(HeadSelectionTest, RandomLivesAgreeWithAPlainModel) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int life = 0; life < 60; ++life) {
    HgcaParams params{.alpha = static_cast<double>(random() % 11) / 10,
                      .beta = random() % 6 == 0 ? 0.0 : std::exp2(RandomInt(random, -3, 3)),
                      .keep_min = RandomInt<uint32_t>(random, 0, 12),
                      .keep_next = random() % 2 == 0 ? 0 : RandomInt<uint32_t>(random, 1, 9)};
    if (params.beta > 0 && random() % 2 == 0) {
      params.max_cache_tokens = RandomInt<uint64_t>(random, 24, 200);
    }
    const HgcaPolicy policy(params, {});
    RandomLife head(random, policy, params);
    for (int event = 0; event < 40; ++event) {
      const uint64_t kind = random() % 10;
      if (kind < 6) {
        head.Spill();
      } else if (kind < 9) {
        head.Attend();
      } else {
        head.Append();
      }
      ASSERT_NO_FATAL_FAILURE(head.Check());
    }
  }
}

}  // namespace
}  // namespace tributary
