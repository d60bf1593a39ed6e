#include "policy/hgca/hgca.h"

#include <limits>

#include "gtest/gtest.h"
#include "policy/policy.h"
#include "tests/unit/policy/plain_selection.h"

namespace tributary {
namespace {

TEST(HgcaTest, SpillRuleIsBetaOverResidentTokens) {
  const HgcaPolicy policy({.beta = 0.5, .keep_min = 7}, {});
  EXPECT_EQ(policy.RuleAt(HgcaMoment::kSpill, 1024), (SelectionRule{.threshold = 0.5 / 1024, .keep_min = 7}));
}

TEST(HgcaTest, AppendRuleIsBoundedByTheCache) {
  const HgcaPolicy unbounded({.beta = 2, .keep_min = 3}, {});
  EXPECT_EQ(unbounded.RuleAt(HgcaMoment::kAppend, 100), (SelectionRule{.threshold = 0.02f, .keep_min = 3}));
  const HgcaPolicy bounded({.beta = 2, .keep_min = 3, .max_cache_tokens = 50}, {});
  EXPECT_EQ(bounded.RuleAt(HgcaMoment::kAppend, 100),
            (SelectionRule{.threshold = 0.02f, .keep_min = 3, .keep_max = 50}));
}

TEST(HgcaTest, ACacheBeyondItsLimitIsHalved) {
  const HgcaPolicy unbounded({.beta = 2}, {});
  EXPECT_FALSE(unbounded.RuleAt(HgcaMoment::kCacheFull, 1u << 30).has_value());
  const HgcaPolicy bounded({.beta = 2, .keep_min = 3, .max_cache_tokens = 50}, {});
  EXPECT_FALSE(bounded.RuleAt(HgcaMoment::kCacheFull, 50).has_value());
  EXPECT_EQ(bounded.RuleAt(HgcaMoment::kCacheFull, 51), (SelectionRule{.threshold = 2, .keep_min = 3, .keep_max = 25}));
}

TEST(HgcaTest, BetaZeroSelectsEverythingAtEveryMoment) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  const HgcaPolicy policy({.beta = 0, .keep_min = 0}, {});
  for (int round = 0; round < 200; ++round) {
    const std::vector<float> maw = RandomSalience(random, RandomInt<size_t>(random, 0, 100));
    std::vector<uint32_t> kept;
    for (const auto moment : {HgcaMoment::kSpill, HgcaMoment::kAppend}) {
      SelectUnits(*policy.RuleAt(moment, RandomInt<uint64_t>(random, 1, 5000)), maw, &kept);
      ASSERT_EQ(kept.size(), maw.size());
    }
  }
}

TEST(HgcaTest, DefaultsAreThoseOfTheRows) {
  EXPECT_EQ(ReadHgcaParams(*ResolvePolicy({.name = "hgca", .parameters = {}}, {})),
            (HgcaParams{.alpha = 0.5,
                        .beta = 1,
                        .keep_min = 10,
                        .keep_next = 0,
                        .group_aggregate = GroupAggregate::kMean,
                        .max_cache_tokens = 0}));
}

TEST(HgcaTest, AlwaysDenseByConfiguration) {
  const HgcaPolicy policy({}, {.dense_layers = {0, 3}, .dense_heads = {{2, 1}}});
  EXPECT_TRUE(policy.IsAlwaysDense(0, 5));
  EXPECT_TRUE(policy.IsAlwaysDense(3, 0));
  EXPECT_TRUE(policy.IsAlwaysDense(2, 1));
  EXPECT_FALSE(policy.IsAlwaysDense(2, 0));
  EXPECT_FALSE(policy.IsAlwaysDense(1, 1));
}

// A threshold that f32 cannot hold keeps the side on which it is: everything for the smallest, the floor for the
// largest.
TEST(HgcaTest, ExtremeThresholds) {
  EXPECT_EQ(HgcaPolicy({.beta = 1e-300}, {}).RuleAt(HgcaMoment::kSpill, 1)->threshold, 0.0f);
  EXPECT_EQ(HgcaPolicy({.beta = 1e300}, {}).RuleAt(HgcaMoment::kSpill, 1)->threshold,
            std::numeric_limits<float>::max());
}

TEST(PolicyTest, WhatEachPolicyNeeds) {
  const auto dense = MakePolicy({});
  EXPECT_EQ(dense->needs(), PolicyNeeds{});
  EXPECT_TRUE(dense->IsAlwaysDense(0, 0));

  const auto hgca = MakePolicy(*ResolvePolicy({.name = "hgca", .parameters = {}}, {}));
  EXPECT_EQ(dense->FacetBytes({2, 4, 8, 100, 1000}), 0u);
  EXPECT_EQ(hgca->FacetBytes({2, 4, 8, 100, 1000}), 100u * (2 * 4 + 8) * 4);
  EXPECT_FALSE(dense->may_leave_out());
  EXPECT_TRUE(hgca->may_leave_out());
  EXPECT_FALSE(HgcaPolicy({.beta = 0}, {}).may_leave_out());
  EXPECT_EQ(hgca->needs().row_cache, RowCacheNeed{});
  EXPECT_EQ(HgcaPolicy({.beta = 1, .max_cache_tokens = 50}, {}).needs().row_cache, RowCacheNeed{50});
  EXPECT_EQ(HgcaPolicy({.beta = 0}, {}).needs(), PolicyNeeds{});
}

}  // namespace
}  // namespace tributary
