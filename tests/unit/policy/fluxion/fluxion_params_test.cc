#include "policy/fluxion/fluxion_params.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(FluxionParamsTest, DefaultsAreCalibratedWithTheBlockSizeLeftOpen) {
  const FluxionParams params = ReadFluxionParams(*ResolvePolicy({.name = "fluxion"}, {}));
  EXPECT_EQ(params.mode, BudgetMode::kCalibrated);
  EXPECT_EQ(params.block_tokens, 0u);
}

TEST(FluxionParamsTest, FixedIsBlocksOf16UnlessAskedOtherwise) {
  PolicyRequest request{.name = "fluxion", .parameters = {{"budget_mode", "fixed"}, {"budget", 0.05}}};
  EXPECT_EQ(ReadFluxionParams(*ResolvePolicy(request, {})).block_tokens, 16u);
  request.Set("select_block_tokens", 64);
  const FluxionParams params = ReadFluxionParams(*ResolvePolicy(request, {}));
  EXPECT_EQ(params.mode, BudgetMode::kFixed);
  EXPECT_EQ(params.block_tokens, 64u);
  EXPECT_EQ(params.budget, 0.05);
}

TEST(FluxionParamsTest, RefusesWithTheValue) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const struct {
    PolicyRequest request;
    const char* message;
  } cases[] = {
      {{.name = "fluxion", .parameters = {{"budget", 0.0}}}, "budget is 0; use a share above 0"},
      {{.name = "fluxion", .parameters = {{"budget", 1.01}}}, "budget is 1.01; use a number from 0 to 1"},
      {{.name = "fluxion", .parameters = {{"budget", -0.1}}}, "budget is -0.1"},
      {{.name = "fluxion", .parameters = {{"budget", kNan}}}, "budget is nan"},
      {{.name = "fluxion", .parameters = {{"max_budget", 0}}}, "max_budget is 0"},
      {{.name = "fluxion", .parameters = {{"captured_mass", -0.5}}}, "captured_mass is -0.5"},
      {{.name = "fluxion", .parameters = {{"captured_mass", 2}}}, "captured_mass is 2"},
      {{.name = "fluxion", .parameters = {{"min_block_mass", -1.0}}}, "min_block_mass is -1"},
      {{.name = "fluxion", .parameters = {{"target_output_error", 0}}},
       "target_output_error is 0; use a number above 0"},
      {{.name = "fluxion", .parameters = {{"target_output_error", -0.5}}}, "target_output_error is -0.5"},
      {{.name = "fluxion", .parameters = {{"budget_mode", "guess"}}}, "budget_mode 'guess' is not known"},
      {{.name = "fluxion", .parameters = {{"select_block_tokens", 24}}}, "select_block_tokens is 24; use 16, 32, 64"},
      {{.name = "fluxion", .parameters = {{"select_block_tokens", 8}}}, "select_block_tokens is 8"},
      {{.name = "fluxion", .parameters = {{"select_block_tokens", 256}}}, "select_block_tokens is 256"},
      {{.name = "fluxion", .parameters = {{"select_block_tokens", 0}, {"budget_mode", "fixed"}}},
       "select_block_tokens is 0; use 16, 32, 64 or 128 with budget_mode fixed"},
      {{.name = "hgca", .parameters = {{"budget", 0.05}}}, "budget is 0.05, but it is a parameter of policy fluxion"},
  };
  for (const auto& [request, message] : cases) {
    const auto resolved = ResolvePolicy(request, {});
    ASSERT_FALSE(resolved.ok()) << message;
    EXPECT_THAT(std::string(resolved.status().message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace tributary
