#include "client/terminal/policy_flags.h"

#include "CLI/CLI.hpp"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "policy/policy_registry.h"
#include "tests/testutil/every_type_policy.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

class PolicyFlagsTest : public ::testing::Test {
 protected:
  PolicyFlagsTest() { AddEveryTypePolicy(); }

  // What CLI11 says of the flags; empty if nothing is wrong.
  template <typename Add>
  std::string Parse(Add add, std::vector<std::string> flags) {
    CLI::App app;
    add(app);
    help_ = app.help();
    std::reverse(flags.begin(), flags.end());  // as CLI11 wants a vector
    try {
      app.parse(flags);
    } catch (const CLI::ParseError& error) {
      return error.what();
    }
    return "";
  }
  std::string ParseRequest(std::vector<std::string> flags) {
    request_ = {};
    return Parse([this](CLI::App& app) { AddPolicyFlags(app, request_); }, std::move(flags));
  }
  std::string ParseGrid(std::vector<std::string> flags) {
    axes_.clear();
    return Parse([this](CLI::App& app) { AddPolicyGridFlags(app, "Grid", axes_); }, std::move(flags));
  }

  PolicyRequest request_;
  std::vector<ParameterAxis> axes_;
  std::string help_;
};

TEST_F(PolicyFlagsTest, EveryParameterIsAFlagWithItsHelp) {
  ASSERT_EQ(ParseRequest({}), "");
  EXPECT_EQ(request_, PolicyRequest{});
  for (const ParameterColumn& column : AllParameters()) EXPECT_THAT(help_, HasSubstr(FlagOf(*column.row)));
  EXPECT_THAT(help_, HasSubstr("one of dense, hgca"));
  EXPECT_THAT(help_, HasSubstr("default dense"));
  ASSERT_EQ(ParseGrid({}), "");
  EXPECT_TRUE(axes_.empty());
  for (const ParameterColumn& column : AllParameters()) EXPECT_THAT(help_, HasSubstr(FlagOf(*column.row)));
}

TEST_F(PolicyFlagsTest, ValuesHaveTheTypeOfTheirParameter) {
  ASSERT_EQ(ParseRequest({"--policy", "everytype", "--et-share", "1", "--et-count", "5", "--et-word", "far",
                          "--et-layers", "0,2", "--et-heads", "1:0,3:1"}),
            "");
  EXPECT_EQ(request_, (PolicyRequest{.name = "everytype",
                                     .parameters = {{"et_share", 1.0},
                                                    {"et_count", 5},
                                                    {"et_word", "far"},
                                                    {"et_layers", std::vector<uint32_t>{0, 2}},
                                                    {"et_heads", std::vector<LayerHead>{{1, 0}, {3, 1}}}}}));
}

TEST_F(PolicyFlagsTest, AGridTakesListsOfValues) {
  ASSERT_EQ(ParseGrid({"--et-count", "5,7", "--et-share", "0.25", "--et-heads", "1:0,3:1", "--et-word", "far,near"}),
            "");
  ASSERT_EQ(axes_.size(), 4u);  // in the order of the parameters
  EXPECT_EQ(axes_[0].name, "et_share");
  EXPECT_EQ(axes_[0].values, std::vector<ParameterValue>{0.25});
  EXPECT_EQ(axes_[1].name, "et_count");
  EXPECT_EQ(axes_[1].values, (std::vector<ParameterValue>{5, 7}));
  EXPECT_EQ(axes_[2].values, (std::vector<ParameterValue>{"far", "near"}));
  EXPECT_EQ(axes_[3].values, (std::vector<ParameterValue>{std::vector<LayerHead>{{1, 0}, {3, 1}}}));
}

TEST_F(PolicyFlagsTest, WhatIsNoValueIsNamed) {
  EXPECT_THAT(ParseRequest({"--et-share", "half"}), HasSubstr("--et-share has 'half'; use a number"));
  EXPECT_THAT(ParseRequest({"--et-count", "-1"}), HasSubstr("--et-count has '-1'; use a whole number"));
  EXPECT_THAT(ParseRequest({"--et-layers", "0,x"}), HasSubstr("--et-layers has 'x'"));
  EXPECT_THAT(ParseRequest({"--et-heads", "3"}), HasSubstr("--et-heads has '3'; use LAYER:KV_HEAD"));
  EXPECT_THAT(ParseGrid({"--et-count", "1,2,many"}), HasSubstr("--et-count has 'many'"));
}

}  // namespace
}  // namespace tributary
