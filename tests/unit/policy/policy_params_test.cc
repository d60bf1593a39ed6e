#include "policy/policy_params.h"

#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "policy/hgca/hgca_params.h"
#include "policy/sparse_params.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr PolicyContext kContext{.block_tokens = 64, .num_layers = 4, .num_kv_heads = 2};

TEST(PolicyParamsTest, DenseIsTheDefault) {
  const auto params = ResolvePolicy({}, kContext);
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(*params, PolicyParams{});
  EXPECT_EQ(params->name(), "dense");
  EXPECT_FALSE(params->is_sparse());
  EXPECT_EQ(ReadSparseParams(*params), SparseParams{});
}

TEST(PolicyParamsTest, HgcaTakesItsParameters) {
  const auto params = ResolvePolicy({.name = "hgca",
                                     .parameters = {{"alpha", 0.25},
                                                    {"beta", 2},
                                                    {"keep_min", 64},
                                                    {"keep_next", 8},
                                                    {"group_aggregate", "max"},
                                                    {"max_cache_tokens", 128},
                                                    {"min_kept_mass", 0.5},
                                                    {"max_output_error", 0.25},
                                                    {"quality_sample_rate", 1},
                                                    {"dense_layers", std::vector<uint32_t>{3}},
                                                    {"dense_heads", std::vector<LayerHead>{{0, 1}}}}},
                                    kContext);
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(ReadHgcaParams(*params), (HgcaParams{.alpha = 0.25,
                                                 .beta = 2,
                                                 .keep_min = 64,
                                                 .keep_next = 8,
                                                 .group_aggregate = GroupAggregate::kMax,
                                                 .max_cache_tokens = 128}));
  EXPECT_EQ(ReadSparseParams(*params), (SparseParams{.min_kept_mass = 0.5,
                                                     .max_output_error = 0.25,
                                                     .quality_sample_rate = 1,
                                                     .dense_layers = {3},
                                                     .dense_heads = {{0, 1}}}));
}

TEST(PolicyParamsTest, TheDefaultFloorFitsSmallBlocks) {
  const auto params = ResolvePolicy({.name = "hgca"}, {.block_tokens = 4});
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(ReadHgcaParams(*params).keep_min, 4u);
}

TEST(PolicyParamsTest, BadValuesAreNamed) {
  struct Case {
    PolicyRequest request;
    const char* text;
  };
  const Case cases[] = {
      {{.name = "fluxon"}, "policy 'fluxon' is not known; this build has: dense"},
      {{.name = "DENSE"}, "'DENSE'"},
      {{.name = "hgca", .parameters = {{"alpha", 1.0001}}}, "alpha is 1.0001; use a number from 0 to 1"},
      {{.name = "hgca", .parameters = {{"alpha", -0.5}}}, "alpha is -0.5"},
      {{.name = "hgca", .parameters = {{"alpha", kNan}}}, "alpha is nan"},
      {{.name = "hgca", .parameters = {{"beta", -1.0}}}, "beta is -1; use 0"},
      {{.name = "hgca", .parameters = {{"beta", kNan}}}, "beta is nan"},
      {{.name = "hgca", .parameters = {{"beta", kInf}}}, "beta is inf"},
      {{.name = "hgca", .parameters = {{"keep_min", 65}}}, "keep_min is 65, more than the 64 tokens of a block"},
      {{.name = "hgca", .parameters = {{"keep_next", 65}}}, "keep_next is 65; use at most 64"},
      {{.name = "hgca", .parameters = {{"group_aggregate", "sum"}}}, "group_aggregate 'sum' is not known"},
      {{.name = "hgca", .parameters = {{"beta", 0}, {"max_cache_tokens", 100}}}, "beta 0 reads everything"},
      {{.name = "hgca", .parameters = {{"keep_min", 10}, {"max_cache_tokens", 19}}}, "at least twice keep_min (10)"},
      {{.name = "hgca", .parameters = {{"min_kept_mass", 1.5}}}, "min_kept_mass is 1.5"},
      {{.name = "hgca", .parameters = {{"min_kept_mass", kNan}}}, "min_kept_mass is nan"},
      {{.name = "hgca", .parameters = {{"quality_sample_rate", -0.1}}}, "quality_sample_rate is -0.1"},
      {{.name = "hgca", .parameters = {{"min_kept_mass", 0.5}, {"quality_sample_rate", 0}}}, "never measures it"},
      {{.name = "hgca", .parameters = {{"max_output_error", 0.1}, {"quality_sample_rate", 0}}},
       "max_output_error is 0.1, but quality_sample_rate 0 never measures it"},
      {{.name = "fluxion", .parameters = {{"max_output_error", -0.1}}}, "max_output_error is -0.1"},
      {{.name = "hgca", .parameters = {{"dense_layers", std::vector<uint32_t>{4}}}},
       "layer 4; the model has layers 0 to 3"},
      {{.name = "hgca", .parameters = {{"dense_heads", std::vector<LayerHead>{{1, 2}}}}},
       "1:2; the model has 4 layers and 2 KV heads"},
      {{.name = "hgca", .parameters = {{"dense_heads", std::vector<LayerHead>{{4, 0}}}}}, "4:0"},
      {{.name = "dense", .parameters = {{"beta", 1}}},
       "beta is 1, but it is a parameter of policy hgca and the policy is dense"},
      {{.name = "", .parameters = {{"keep_min", 1}}}, "keep_min is 1, but it is a parameter of policy hgca"},
      {{.name = "dense", .parameters = {{"min_kept_mass", 0.9}}},
       "min_kept_mass is 0.9, but it is a parameter of sparse policies"},
      {{.name = "dense", .parameters = {{"tau", 0.9}}}, "parameter 'tau' (0.9) is not known; policy dense has none"},
      {{.name = "hgca", .parameters = {{"tau", 0.9}}}, "policy hgca has alpha, beta, keep_min"},
      {{.name = "hgca", .parameters = {{"beta", 1}, {"alpha", 0.5}, {"beta", 2}}}, "beta is given twice (1 and 2)"},
      {{.name = "hgca", .parameters = {{"beta", "large"}}}, "beta is a word (large); policy hgca takes a number"},
      {{.name = "hgca", .parameters = {{"keep_min", 1.5}}}, "keep_min is a number (1.5); policy hgca takes a count"},
      {{.name = "hgca", .parameters = std::vector<NamedValue>(65, {"beta", 1})}, "65 parameters; use at most 64"},
  };
  for (const Case& c : cases) {
    const auto params = ResolvePolicy(c.request, kContext);
    EXPECT_EQ(params.status().code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(params.status().message()), HasSubstr(c.text));
  }
}

TEST(PolicyParamsTest, WhatIsNotKnownYetIsNotChecked) {
  EXPECT_TRUE(ResolvePolicy({.name = "hgca",
                             .parameters = {{"keep_min", 900},
                                            {"dense_layers", std::vector<uint32_t>{99}},
                                            {"dense_heads", std::vector<LayerHead>{{99, 99}}}}},
                            {})
                  .ok());
}

TEST(PolicyParamsTest, ParametersAreFoundByName) {
  PolicyRequest request{.name = "hgca", .parameters = {{"beta", 2.0}}};
  EXPECT_EQ(*request.Find("beta"), ParameterValue(2.0));
  EXPECT_EQ(request.Find("alpha"), nullptr);
  request.Set("beta", 3.0);
  request.Set("alpha", 0.5);
  EXPECT_EQ(request, (PolicyRequest{.name = "hgca", .parameters = {{"beta", 3.0}, {"alpha", 0.5}}}));
  PolicyParams params = *ResolvePolicy(request, kContext);
  EXPECT_EQ(params.number("beta"), 3);
  EXPECT_EQ(params.Find("tau"), nullptr);
  params.Set("beta", 4.0);
  EXPECT_EQ(ReadHgcaParams(params).beta, 4);
  EXPECT_DEATH(params.Set("beta", "four"), "type");
  EXPECT_DEATH(params.number("tau"), "value != nullptr");
  EXPECT_DEATH(ReadHgcaParams(PolicyParams()), "value != nullptr");
}

TEST(PolicyParamsTest, ACompleteRequestAsksForTheSame) {
  for (const PolicyRequest& asked : {PolicyRequest{}, PolicyRequest{.name = "hgca"},
                                     PolicyRequest{.name = "hgca",
                                     .parameters = {{"alpha", 0.25},
                                                    {"beta", 2},
                                                    {"keep_min", 3},
                                                    {"keep_next", 4},
                                                    {"group_aggregate", "max"},
                                                    {"max_cache_tokens", 500},
                                                    {"min_kept_mass", 0.5},
                                                    {"quality_sample_rate", 1},
                                                    {"dense_layers", std::vector<uint32_t>{1, 0}},
                                                    {"dense_heads", std::vector<LayerHead>{{2, 1}}}}}}) {
    const auto params = ResolvePolicy(asked, kContext);
    ASSERT_TRUE(params.ok()) << params.status();
    const auto again = ParseComplete(CompleteRequest(*params), {});
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(*again, *params);
  }
}

TEST(PolicyParamsTest, AnIncompleteRequestIsNotCompletedByTheReceiver) {
  PolicyRequest request = CompleteRequest(*ResolvePolicy({.name = "hgca"}, {}));
  std::erase_if(request.parameters, [](const NamedValue& given) { return given.name == "keep_min"; });
  const auto params = ParseComplete(request, {});
  EXPECT_EQ(params.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(params.status().message()), HasSubstr("keep_min of policy hgca"));
  EXPECT_EQ(ParseComplete({}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  request = CompleteRequest(*ResolvePolicy({.name = "hgca"}, {}));
  request.Set("alpha", 1.5);
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
    if (random() % 2 == 0) request.Set("alpha", number());
    if (random() % 2 == 0) request.Set("beta", number());
    if (random() % 2 == 0) request.Set("keep_min", RandomInt<uint32_t>(random, 0, 128));
    if (random() % 2 == 0) request.Set("max_cache_tokens", random() % 3 == 0 ? random() : random() % 64);
    if (random() % 2 == 0) request.Set("min_kept_mass", number());
    if (random() % 2 == 0) request.Set("quality_sample_rate", number());
    const auto params = ResolvePolicy(request, kContext);
    if (!params.ok()) continue;
    ++accepted;
    EXPECT_TRUE(ReadHgcaParams(*params).alpha >= 0 && ReadHgcaParams(*params).alpha <= 1);
    EXPECT_TRUE(ReadHgcaParams(*params).beta >= 0 && ReadHgcaParams(*params).beta < kInf);
    EXPECT_LE(ReadHgcaParams(*params).keep_min, 64u);
    EXPECT_TRUE(ReadSparseParams(*params).min_kept_mass >= 0 && ReadSparseParams(*params).min_kept_mass <= 1);
    EXPECT_TRUE(ReadSparseParams(*params).quality_sample_rate >= 0 &&
                ReadSparseParams(*params).quality_sample_rate <= 1);
  }
  EXPECT_GT(accepted, 20);
}

}  // namespace
}  // namespace tributary
