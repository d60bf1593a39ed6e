#include "policy/quality_levels.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "policy/delta/delta_params.h"
#include "policy/policy_registry.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

constexpr PolicyContext kContext{.block_tokens = 64, .num_layers = 4, .num_kv_heads = 2};

TEST(QualityLevelsTest, EachStandsForAPolicyOfThisBuild) {
  EXPECT_EQ(QualityNames(), "exact, high, balanced, fast");
  for (const QualityLevel& level : QualityLevels()) {
    const auto named = ResolvePolicy({.quality = std::string(level.name)}, kContext);
    ASSERT_TRUE(named.ok()) << named.status();
    EXPECT_EQ(*named, *ResolvePolicy(level.policy, kContext)) << level.name;
  }
  EXPECT_EQ(*ResolvePolicy({.quality = "exact"}, kContext), PolicyParams{});
}

TEST(QualityLevelsTest, EachReadsLessThanTheOneBefore) {
  double share = 1;
  for (const std::string name : {"high", "balanced", "fast"}) {
    const PolicyParams params = *ResolvePolicy({.quality = name}, kContext);
    EXPECT_LT(ReadDeltaParams(params).max_share, share) << name;
    share = ReadDeltaParams(params).max_share;
  }
}

TEST(QualityLevelsTest, WhatOnlyWatchesMayStandBesideIt) {
  const auto params = ResolvePolicy({.parameters = {{"quality_sample_rate", 0.5}}, .quality = "balanced"}, kContext);
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(ReadSparseParams(*params).quality_sample_rate, 0.5);
}

TEST(QualityLevelsTest, WhatItDecidesMayNot) {
  const auto refused = [](const PolicyRequest& request, const char* words) {
    const absl::Status status = ResolvePolicy(request, kContext).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  };
  refused({.quality = "best\n"}, "quality 'best\\n' is not known; use one of exact, high, balanced, fast");
  refused({.name = "hgca", .quality = "high"}, "quality high chooses the policy (delta), but policy hgca is asked");
  refused({.name = "dense", .quality = "exact"}, "policy dense is asked for, too; drop one of them");
  refused({.parameters = {{"max_share", 0.5}}, .quality = "fast"}, "but max_share is 0.5; drop it");
  refused({.parameters = {{"beta", 4}}, .quality = "fast"}, "but beta is 4; drop it");
  refused({.parameters = {{"max_output_error", 0.5}}, .quality = "high"}, "but max_output_error is 0.5");
  refused({.parameters = {{"frob", 1}}, .quality = "high"}, "parameter 'frob' (1) is not known; policy delta has");
  refused({.parameters = {{"quality_sample_rate", 1}}, .quality = "exact"}, "and the policy is dense");
  refused({.parameters = {{"quality_sample_rate", 1.0}, {"quality_sample_rate", 0.5}}, .quality = "high"}, "twice");
}

}  // namespace
}  // namespace tributary
