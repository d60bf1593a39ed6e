#include "policy/delta/delta_params.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "policy/delta/delta.h"
#include "policy/policy_registry.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::StatusOr<PolicyParams> Resolve(std::vector<NamedValue> parameters) {
  return ResolvePolicy({.name = "delta", .parameters = std::move(parameters)}, {.num_layers = 4, .num_kv_heads = 2});
}

TEST(DeltaParamsTest, DefaultsAndWhatIsAskedFor) {
  EXPECT_EQ(ReadDeltaParams(*Resolve({})), (DeltaParams{.key_code_bits = 2, .max_share = 0.01, .delta_nats = 8}));
  EXPECT_EQ(ReadDeltaParams(*Resolve({{"max_share", 0.5}, {"delta_nats", 3}, {"key_code_bits", 4}})),
            (DeltaParams{.key_code_bits = 4, .max_share = 0.5, .delta_nats = 3}));
}

TEST(DeltaParamsTest, SaysWhatIsWrong) {
  const auto message = [](const char* name, ParameterValue value) {
    return std::string(Resolve({{name, std::move(value)}}).status().message());
  };
  EXPECT_THAT(message("max_share", 0.0), HasSubstr("max_share is 0; use a share above 0"));
  EXPECT_THAT(message("max_share", 1.5), HasSubstr("max_share"));
  EXPECT_THAT(message("delta_nats", -1.0), HasSubstr("delta_nats is -1"));
  EXPECT_THAT(message("key_code_bits", uint64_t{3}), HasSubstr("key_code_bits is 3; use 1, 2 or 4"));
  EXPECT_THAT(message("key_code_bits", uint64_t{8}), HasSubstr("key_code_bits"));
}

TEST(DeltaPolicyTest, NeedsCodesUnlessEverythingIsRead) {
  const auto needs = [](std::vector<NamedValue> parameters) {
    return MakePolicy(*Resolve(std::move(parameters)))->needs();
  };
  EXPECT_THAT(needs({}).key_code_bits, ElementsAre(2u));
  EXPECT_THAT(needs({{"max_share", 1}}).key_code_bits, ElementsAre(2u));
  EXPECT_THAT(needs({{"max_share", 1}, {"delta_nats", 0}}).key_code_bits, IsEmpty());
}

TEST(DeltaPolicyTest, AShareIsAtLeastOneTokenAndAtMostAll) {
  const DeltaPolicy policy({.key_code_bits = 2, .max_share = 0.01, .delta_nats = 8}, {});
  EXPECT_EQ(policy.MaxTokens(0), 0u);
  EXPECT_EQ(policy.MaxTokens(1), 1u);
  EXPECT_EQ(policy.MaxTokens(100), 1u);
  EXPECT_EQ(policy.MaxTokens(101), 2u);
  EXPECT_EQ(DeltaPolicy({.key_code_bits = 2, .max_share = 1, .delta_nats = 8}, {}).MaxTokens(7), 7u);
}

}  // namespace
}  // namespace tributary
