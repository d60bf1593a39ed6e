#include "client/eval/eval_report.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/every_type_policy.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

// A policy that the client knows by its rows alone: grid, names, JSON and CSV have its parameters.
TEST(EvalReportTest, APolicyFromOutsideHasItsColumns) {
  AddEveryTypePolicy();
  EvalOptions options;
  options.policies = {"everytype"};
  options.parameters = {{"et_count", {3, 4}},
                        {"et_share", {0.25}},
                        {"quality_sample_rate", {1.0}},
                        {"et_heads", {std::vector<LayerHead>{{1, 0}, {2, 1}}}}};
  EvalPlan plan;
  const auto grid = ExpandGrid(options);
  ASSERT_TRUE(grid.ok()) << grid.status();
  plan.settings = *grid;
  ASSERT_EQ(plan.settings.size(), 3u);
  EXPECT_EQ(SettingName(plan.settings[0]), "dense");
  EXPECT_EQ(SettingName(plan.settings[1]), "everytype et_share=0.25 et_count=3 et_heads=1:0,2:1");
  EXPECT_EQ(SettingName(plan.settings[2]), "everytype et_share=0.25 et_count=4 et_heads=1:0,2:1");

  EvalReport report;
  report.results.resize(3);
  const auto json = EvalJson(plan, report);
  EXPECT_THAT(json["parameters"].dump(), HasSubstr("\"et_share\",\"et_count\",\"et_word\",\"et_layers\",\"et_heads\""));
  EXPECT_THAT(json["parameters"].dump(), ::testing::Not(HasSubstr("quality_sample_rate")));
  const auto& setting = json["settings"][2];
  EXPECT_EQ(setting["et_share"], 0.25);
  EXPECT_EQ(setting["et_count"], 4);
  EXPECT_TRUE(setting["et_word"].is_null());
  EXPECT_EQ(setting["et_layers"].dump(), "[]");
  EXPECT_EQ(setting["et_heads"].dump(), "[\"1:0\",\"2:1\"]");
  EXPECT_EQ(setting["quality_sample_rate"], 1.0);
  EXPECT_TRUE(setting["beta"].is_null());
  EXPECT_TRUE(json["settings"][0]["et_count"].is_null());

  const std::string csv = EvalCsv(plan, report);
  EXPECT_THAT(csv, HasSubstr(",et_share,et_count,et_word,et_layers,et_heads,"));
  EXPECT_THAT(csv, ::testing::ContainsRegex("\n\"everytype\",1024,,*1\\.0,,*0\\.25,4,,,1:0 2:1,"));
}

TEST(EvalReportTest, AGridOfAPolicyFromOutsideIsChecked) {
  AddEveryTypePolicy();
  EvalOptions options;
  options.policies = {"everytype"};
  options.parameters = {{"et_count", {3, 10}}};
  EXPECT_THAT(std::string(ExpandGrid(options).status().message()), HasSubstr("et_count is 10; use at most 9"));
  options.policies = {"hgca"};
  EXPECT_THAT(std::string(ExpandGrid(options).status().message()), HasSubstr("et_count is no parameter of hgca"));
}

}  // namespace
}  // namespace tributary
