#include "policy/policy_params.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr PolicyContext kContext{.block_tokens = 64, .num_layers = 4, .num_kv_heads = 2};

TEST(PolicyParamsTest, DenseIsTheDefault) {
  const auto params = ResolvePolicy({}, kContext);
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(*params, PolicyParams{});
  EXPECT_EQ(PolicyName(params->kind), "dense");
  EXPECT_TRUE(CheckServed(params->kind).ok());
}

TEST(PolicyParamsTest, HgcaTakesItsParameters) {
  const auto params = ResolvePolicy({.name = "hgca",
                                     .alpha = 0.25,
                                     .beta = 2,
                                     .keep_min = 64,
                                     .keep_next = 8,
                                     .group_aggregate = "max",
                                     .max_cache_tokens = 128,
                                     .min_kept_mass = 0.5,
                                     .quality_sample_rate = 1,
                                     .dense_layers = {3},
                                     .dense_heads = {{0, 1}}},
                                    kContext);
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(params->hgca, (HgcaParams{.alpha = 0.25,
                                      .beta = 2,
                                      .keep_min = 64,
                                      .keep_next = 8,
                                      .group_aggregate = GroupAggregate::kMax,
                                      .max_cache_tokens = 128}));
  EXPECT_EQ(
      params->sparse,
      (SparseParams{.min_kept_mass = 0.5, .quality_sample_rate = 1, .dense_layers = {3}, .dense_heads = {{0, 1}}}));
}

TEST(PolicyParamsTest, TheDefaultFloorFitsSmallBlocks) {
  const auto params = ResolvePolicy({.name = "hgca"}, {.block_tokens = 4});
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(params->hgca.keep_min, 4u);
}

TEST(PolicyParamsTest, BadValuesAreNamed) {
  struct Case {
    PolicyRequest request;
    const char* text;
  };
  const Case cases[] = {
      {{.name = "fluxon"}, "policy 'fluxon' is not known; this build has: dense"},
      {{.name = "DENSE"}, "'DENSE'"},
      {{.name = "hgca", .alpha = 1.0001}, "alpha is 1.0001; use a number from 0 to 1"},
      {{.name = "hgca", .alpha = -0.5}, "alpha is -0.5"},
      {{.name = "hgca", .alpha = kNan}, "alpha is nan"},
      {{.name = "hgca", .beta = -1}, "beta is -1; use 0"},
      {{.name = "hgca", .beta = kNan}, "beta is nan"},
      {{.name = "hgca", .beta = kInf}, "beta is inf"},
      {{.name = "hgca", .keep_min = 65}, "keep_min is 65, more than the 64 tokens of a block"},
      {{.name = "hgca", .keep_next = 65}, "keep_next is 65; use at most 64"},
      {{.name = "hgca", .group_aggregate = "sum"}, "group_aggregate 'sum' is not known"},
      {{.name = "hgca", .beta = 0, .max_cache_tokens = 100}, "beta 0 reads everything"},
      {{.name = "hgca", .keep_min = 10, .max_cache_tokens = 19}, "at least twice keep_min (10)"},
      {{.name = "hgca", .min_kept_mass = 1.5}, "min_kept_mass is 1.5"},
      {{.name = "hgca", .min_kept_mass = kNan}, "min_kept_mass is nan"},
      {{.name = "hgca", .quality_sample_rate = -0.1}, "quality_sample_rate is -0.1"},
      {{.name = "hgca", .min_kept_mass = 0.5, .quality_sample_rate = 0}, "never measures it"},
      {{.name = "hgca", .dense_layers = {4}}, "layer 4; the model has layers 0 to 3"},
      {{.name = "hgca", .dense_heads = {{1, 2}}}, "1:2; the model has 4 layers and 2 KV heads"},
      {{.name = "hgca", .dense_heads = {{4, 0}}}, "4:0"},
      {{.name = "dense", .beta = 1}, "beta is a parameter of policy hgca, but the policy is dense"},
      {{.name = "", .keep_min = 1}, "keep_min is a parameter of policy hgca"},
      {{.name = "dense", .min_kept_mass = 0.9}, "min_kept_mass is a parameter of sparse policies"},
  };
  for (const Case& c : cases) {
    const auto params = ResolvePolicy(c.request, kContext);
    EXPECT_EQ(params.status().code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(params.status().message()), HasSubstr(c.text));
  }
}

TEST(PolicyParamsTest, WhatIsNotKnownYetIsNotChecked) {
  EXPECT_TRUE(
      ResolvePolicy({.name = "hgca", .keep_min = 900, .dense_layers = {99}, .dense_heads = {{99, 99}}}, {}).ok());
}

TEST(PolicyParamsTest, ParametersGivenAreListed) {
  EXPECT_THAT(ParametersGiven({.beta = 1, .min_kept_mass = 0.9}), ElementsAre("beta", "min_kept_mass"));
  EXPECT_TRUE(HasParameter(PolicyKind::kHgca, "beta"));
  EXPECT_FALSE(HasParameter(PolicyKind::kDense, "min_kept_mass"));
  EXPECT_FALSE(HasParameter(PolicyKind::kHgca, "tau"));
}

TEST(PolicyParamsTest, WhatIsKnownIsServed) {
  for (const char* name : {"dense", "hgca"}) {
    const auto kind = ParsePolicyName(name);
    ASSERT_TRUE(kind.ok());
    EXPECT_TRUE(CheckServed(*kind).ok());
  }
  const absl::Status other = CheckServed(static_cast<PolicyKind>(77));
  EXPECT_EQ(other.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(other.message()), HasSubstr("this build has: dense, hgca"));
}

TEST(PolicyParamsTest, ACompleteRequestAsksForTheSame) {
  for (const PolicyRequest& asked : {PolicyRequest{}, PolicyRequest{.name = "hgca"},
                                     PolicyRequest{.name = "hgca",
                                     .alpha = 0.25,
                                     .beta = 2,
                                     .keep_min = 3,
                                     .keep_next = 4,
                                     .group_aggregate = "max",
                                     .max_cache_tokens = 500,
                                     .min_kept_mass = 0.5,
                                     .quality_sample_rate = 1,
                                     .dense_layers = {1, 0},
                                     .dense_heads = {{2, 1}}}}) {
    const auto params = ResolvePolicy(asked, kContext);
    ASSERT_TRUE(params.ok()) << params.status();
    const auto again = ParseComplete(CompleteRequest(*params), {});
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(*again, *params);
  }
}

TEST(PolicyParamsTest, AnIncompleteRequestIsNotCompletedByTheReceiver) {
  PolicyRequest request = CompleteRequest(*ResolvePolicy({.name = "hgca"}, {}));
  request.keep_min.reset();
  const auto params = ParseComplete(request, {});
  EXPECT_EQ(params.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(params.status().message()), HasSubstr("keep_min of policy hgca"));
  EXPECT_EQ(ParseComplete({}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  request = CompleteRequest(*ResolvePolicy({.name = "hgca"}, {}));
  request.alpha = 1.5;
  EXPECT_EQ(ParseComplete(request, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

// Whatever a stranger sends: an answer, and if it is yes, values within their ranges.
TEST(PolicyParamsTest, AcceptedValuesAreInRange) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  const double kOdd[] = {kNan, kInf, -kInf, -0.0, 0.0, 1.0, 1e-320, 1e308, -1e308};
  const auto number = [&] {
    return random() % 2 == 0 ? kOdd[random() % std::size(kOdd)]
                             : std::uniform_real_distribution<double>(-0.5, 2.0)(random);
  };
  int accepted = 0;
  for (int round = 0; round < 5000; ++round) {
    PolicyRequest request{.name = "hgca"};
    if (random() % 2 == 0) request.alpha = number();
    if (random() % 2 == 0) request.beta = number();
    if (random() % 2 == 0) request.keep_min = RandomInt<uint32_t>(random, 0, 128);
    if (random() % 2 == 0) request.max_cache_tokens = random() % 3 == 0 ? random() : random() % 64;
    if (random() % 2 == 0) request.min_kept_mass = number();
    if (random() % 2 == 0) request.quality_sample_rate = number();
    const auto params = ResolvePolicy(request, kContext);
    if (!params.ok()) continue;
    ++accepted;
    EXPECT_TRUE(params->hgca.alpha >= 0 && params->hgca.alpha <= 1);
    EXPECT_TRUE(params->hgca.beta >= 0 && params->hgca.beta < kInf);
    EXPECT_LE(params->hgca.keep_min, 64u);
    EXPECT_TRUE(params->sparse.min_kept_mass >= 0 && params->sparse.min_kept_mass <= 1);
    EXPECT_TRUE(params->sparse.quality_sample_rate >= 0 && params->sparse.quality_sample_rate <= 1);
  }
  EXPECT_GT(accepted, 20);
}

}  // namespace
}  // namespace tributary
