#include "policy/fluxion/fluxion.h"

#include "gtest/gtest.h"

namespace tributary {
namespace {

FluxionPolicy Policy(std::vector<NamedValue> parameters) {
  const PolicyParams params = *ResolvePolicy({.name = "fluxion", .parameters = std::move(parameters)}, {});
  return FluxionPolicy(ReadFluxionParams(params), ReadSparseParams(params));
}

TEST(FluxionTest, KeepsSummariesOfTheSizesThatItMayRead) {
  EXPECT_EQ(Policy({}).needs().block_summaries.size(), 4u);
  const FluxionPolicy fixed = Policy({{"budget_mode", "fixed"}, {"select_block_tokens", 32}});
  ASSERT_EQ(fixed.needs().block_summaries.size(), 1u);
  EXPECT_EQ(fixed.needs().block_summaries[0], FluxionSummary(32));
  EXPECT_EQ(fixed.block_sizes().size(), 1u);
  EXPECT_EQ(fixed.block_sizes()[0], 32u);
}

TEST(FluxionTest, WhatSelectsEverythingNeedsNothing) {
  for (const FluxionPolicy& policy : {Policy({{"budget_mode", "fixed"}, {"budget", 1}}),
                                      Policy({{"captured_mass", 1}, {"min_block_mass", 0}, {"max_budget", 1}})}) {
    EXPECT_FALSE(policy.may_leave_out());
    EXPECT_TRUE(policy.needs().block_summaries.empty());
  }
  EXPECT_TRUE(Policy({{"budget_mode", "fixed"}, {"budget", 0.999}}).may_leave_out());
  EXPECT_TRUE(Policy({{"captured_mass", 1}, {"min_block_mass", 0}}).may_leave_out()) << "a cap";
  EXPECT_TRUE(Policy({{"budget_mode", "oracle"}}).may_leave_out());
}

TEST(FluxionTest, ABudgetRoundsUpToBlocks) {
  EXPECT_EQ(BudgetBlocks(0.05, 0), 0u);
  EXPECT_EQ(BudgetBlocks(0.05, 1), 1u);
  EXPECT_EQ(BudgetBlocks(0.05, 20), 1u);
  EXPECT_EQ(BudgetBlocks(0.05, 21), 2u);
  EXPECT_EQ(BudgetBlocks(1e-9, 8192), 1u);
  EXPECT_EQ(BudgetBlocks(1.0, 8191), 8191u);
  // 0.07 * 100 is 7.000000000000001.
  EXPECT_EQ(BudgetBlocks(0.07, 100), 7u);
  EXPECT_EQ(BudgetBlocks(0.1, 100000000), 10000000u);
}

TEST(FluxionTest, CoarseBlocksPayWhereTheirSummariesSaveMoreThanTheirTokensCost) {
  // 128K tokens of 128 dims, K and V in bf16.
  const SizeCost fine{.num_blocks = 8192, .summary_bytes = 260, .union_tokens = 200, .token_bytes = 512};
  const SizeCost coarse{.num_blocks = 1024, .summary_bytes = 260, .union_tokens = 1600, .token_bytes = 512};
  EXPECT_EQ(fine.bytes(), 8192u * 260 + 200 * 512);
  EXPECT_LT(coarse.bytes(), fine.bytes());
}

}  // namespace
}  // namespace tributary
