#include "policy/policy_registry.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "policy/policy.h"
#include "tests/testutil/every_type_policy.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const ParameterColumn& column : AllParameters()) names.emplace_back(column.row->name);
  return names;
}

TEST(PolicyRegistryTest, BuiltInPoliciesAreInOrder) {
  EXPECT_THAT(PolicyNames(), ::testing::StartsWith("dense, hgca"));
  EXPECT_EQ((*FindPolicy(""))->name, "dense");
  EXPECT_EQ((*FindPolicy("hgca"))->name, "hgca");
  const absl::Status unknown = FindPolicy("fluxon").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("policy 'fluxon' is not known; this build has: dense, hgca"));
}

// Columns of files and keys of JSON: scripts rely on their names and order.
TEST(PolicyRegistryTest, ParametersAreThoseThatFilesHave) {
  const std::vector<std::string> names = Names();
  ASSERT_GE(names.size(), 11u);
  EXPECT_THAT(std::vector<std::string>(names.begin(), names.begin() + 11),
              ElementsAre("alpha", "beta", "keep_min", "keep_next", "group_aggregate", "max_cache_tokens",
                          "min_kept_mass", "max_output_error", "quality_sample_rate", "dense_layers", "dense_heads"));
}

TEST(PolicyRegistryTest, EveryDefaultIsAllowedAndEveryRuleMade) {
  for (const PolicyRules* policy : Policies()) {
    for (const ParameterRow& row : policy->parameters) {
      EXPECT_TRUE(CheckedValue(row, DefaultOf(row), {}).ok()) << policy->name << " " << row.name;
      EXPECT_FALSE(row.help.empty()) << row.name;
    }
    const auto params = ResolvePolicy({.name = std::string(policy->name), .parameters = {}}, {});
    ASSERT_TRUE(params.ok()) << params.status();
    EXPECT_EQ(MakePolicy(*params)->is_sparse() || policy->name == kEveryType, policy->is_sparse);
  }
}

TEST(PolicyRegistryTest, APolicyFromOutsideHasItsParametersEverywhere) {
  const size_t before = Names().size();
  AddEveryTypePolicy();
  const std::vector<std::string> names = Names();
  EXPECT_THAT(names, ::testing::IsSupersetOf({"et_share", "et_count", "et_word", "et_layers", "et_heads"}));
  EXPECT_LE(names.size(), before + 5) << "those of every sparse policy were there";
  const auto params = ResolvePolicy({.name = "everytype",
                                     .parameters = {{"et_share", 0.25},
                                                    {"et_count", 9},
                                                    {"et_word", "far"},
                                                    {"et_layers", std::vector<uint32_t>{3}},
                                                    {"et_heads", std::vector<LayerHead>{{1, 0}}},
                                                    {"min_kept_mass", 0.5}}},
                                    {});
  ASSERT_TRUE(params.ok()) << params.status();
  EXPECT_EQ(ReadEveryTypeParams(*params), (EveryTypeParams{0.25, 9, "far", {3}, {{1, 0}}}));
  EXPECT_EQ(ReadSparseParams(*params).min_kept_mass, 0.5);
  EXPECT_EQ(*ParseComplete(CompleteRequest(*params), {}), *params);
  EXPECT_EQ(ReadEveryTypeParams(*ResolvePolicy({.name = "everytype", .parameters = {}}, {})),
            (EveryTypeParams{0.5, 3, "near", {}, {}}));
  EXPECT_THAT(std::string(ResolvePolicy({.name = "everytype", .parameters = {{"et_word", "far"}, {"et_count", 2}}}, {})
                              .status()
                              .message()),
              HasSubstr("et_count above 2"));
}

TEST(PolicyRegistryTest, HelpNamesEveryPolicyThatHasTheParameter) {
  AddEveryTypePolicy();
  static const PolicyRules other{.name = "other",
                                 .is_sparse = false,
                                 .parameters = {CountRow("et_count", "other", {}, 1, "how many of mine")},
                                 .complete = nullptr,
                                 .make = [](const PolicyParams&) { return MakePolicy({}); }};
  if (!FindPolicy("other").ok()) AddPolicy(other);
  for (const ParameterColumn& column : AllParameters()) {
    if (column.row->name != "et_count") continue;
    EXPECT_EQ(column.help, "everytype: how many; default 3. other: how many of mine; default 1");
  }
}

TEST(PolicyRegistryTest, PoliciesThatDoNotFitAreBugs) {
  static const PolicyRules twice{.name = "hgca", .make = [](const PolicyParams&) { return MakePolicy({}); }};
  EXPECT_DEATH(AddPolicy(twice), "FindPolicy");
  static const PolicyRules differs{.name = "differs",
                                   .parameters = {CountRow("beta", "differs", {}, 1, "")},
                                   .make = [](const PolicyParams&) { return MakePolicy({}); }};
  EXPECT_DEATH(AddPolicy(differs), "same->type");
}

}  // namespace
}  // namespace tributary
