#include "policy/parameter.h"

#include "base/limits.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/every_type_policy.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const ParameterRow& kShare = kEveryTypeRows[0];
constexpr const ParameterRow& kCount = kEveryTypeRows[1];
constexpr const ParameterRow& kWord = kEveryTypeRows[2];
constexpr const ParameterRow& kLayers = kEveryTypeRows[3];
constexpr const ParameterRow& kHeads = kEveryTypeRows[4];

TEST(ParameterTest, ValuesConvertFromOrdinaryTypes) {
  EXPECT_EQ(ParameterValue(0.5).number(), 0.5);
  EXPECT_EQ(ParameterValue(0.5f).type(), ParameterType::kNumber);
  EXPECT_EQ(ParameterValue(7).count(), 7u);
  EXPECT_EQ(ParameterValue(~uint64_t{0}).count(), ~uint64_t{0});
  EXPECT_EQ(ParameterValue("near").word(), "near");
  EXPECT_THAT(ParameterValue(std::vector<uint32_t>{1, 0}).layers(), ElementsAre(1, 0));
  EXPECT_THAT(ParameterValue(std::vector<LayerHead>{{1, 0}}).heads(), ElementsAre(LayerHead{1, 0}));
  EXPECT_DEATH(ParameterValue(-1), "count >=");
}

TEST(ParameterTest, TextIsWhatUsersWrite) {
  EXPECT_EQ(ParameterValue(0.5).Text(), "0.5");
  EXPECT_EQ(ParameterValue(1.0).Text(), "1");
  EXPECT_EQ(ParameterValue(8).Text(), "8");
  EXPECT_EQ(ParameterValue("far").Text(), "far");
  EXPECT_EQ(ParameterValue(std::vector<uint32_t>{0, 3}).Text(), "0,3");
  EXPECT_EQ(ParameterValue(std::vector<LayerHead>{{2, 0}, {3, 1}}).Text(), "2:0,3:1");
  EXPECT_EQ(ParameterValue(std::vector<LayerHead>{}).Text(), "");
  EXPECT_TRUE(ParameterValue(std::vector<LayerHead>{}).is_empty_list());
  EXPECT_FALSE(ParameterValue("").is_empty_list());
}

TEST(ParameterTest, WhatUsersWriteIsParsed) {
  const auto parse = [](const ParameterRow& row, std::vector<std::string> texts) { return ParseValue(row, texts); };
  EXPECT_EQ(*parse(kShare, {"0.5"}), ParameterValue(0.5));
  EXPECT_EQ(*parse(kShare, {"1"}), ParameterValue(1.0));
  EXPECT_EQ(*parse(kCount, {"18446744073709551615"}), ParameterValue(~uint64_t{0}));
  EXPECT_EQ(*parse(kWord, {"anything"}), ParameterValue("anything"));
  EXPECT_EQ(*parse(kLayers, {"0", "3"}), ParameterValue(std::vector<uint32_t>{0, 3}));
  EXPECT_EQ(*parse(kHeads, {"2:0", "3:1"}), ParameterValue(std::vector<LayerHead>{{2, 0}, {3, 1}}));
  const auto refused = [&](const ParameterRow& row, const char* text, const char* words) {
    const auto value = parse(row, {text});
    EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(value.status().message()), HasSubstr(words));
  };
  for (const char* text : {"", "x", "0.5x", "0,5"}) refused(kShare, text, "use a number");
  for (const char* text : {"", "-1", "1.5", "+1", "18446744073709551616"}) {
    refused(kCount, text, (std::string("--et-count has '") + text + "'; use a whole number").c_str());
  }
  for (const char* text : {"", "-1", "4294967296", "1:0"}) refused(kLayers, text, "--et-layers has '");
  for (const char* text : {"", "3", "3:", ":1", "1:2:3", "1:x", "-1:0"}) {
    refused(kHeads, text, "use LAYER:KV_HEAD, such as 2:0");
  }
}

TEST(ParameterTest, ValuesAreCheckedAgainstTheirRow) {
  const PolicyContext context{.num_layers = 4, .num_kv_heads = 2};
  const auto refused = [&](const ParameterRow& row, ParameterValue value, const char* words) {
    const auto checked = CheckedValue(row, std::move(value), context);
    EXPECT_EQ(checked.status().code(), absl::StatusCode::kInvalidArgument) << words;
    EXPECT_THAT(std::string(checked.status().message()), HasSubstr(words));
  };
  EXPECT_TRUE(CheckedValue(kShare, 0.25, context).ok());
  EXPECT_TRUE(CheckedValue(kShare, 0.75, context).ok());
  refused(kShare, 0.2, "et_share is 0.2; use a number from 0.25 to 0.75");
  refused(kShare, std::numeric_limits<double>::quiet_NaN(), "et_share is nan; use a number");
  refused(kShare, 1, "et_share is 1;");
  refused(kShare, "half", "et_share is a word (half); policy everytype takes a number");
  refused(kCount, 1, "et_count is 1; use at least 2");
  refused(kCount, 10, "et_count is 10; use at most 9");
  refused(kCount, 3.0, "et_count is a number (3); policy everytype takes a count");
  refused(kWord, "left", "et_word 'left' is not known; use near or far");
  refused(kLayers, std::vector<uint32_t>{1, 4}, "et_layers names layer 4; the model has layers 0 to 3");
  refused(kHeads, std::vector<LayerHead>{{1, 2}}, "et_heads names 1:2; the model has 4 layers and 2 KV heads");
  refused(kHeads, std::vector<uint32_t>{1}, "is a list of layers (1); policy everytype takes a list of KV heads");
  refused(kLayers, std::vector<uint32_t>(limits::kMaxLayers + 1), "et_layers has 513 elements; use at most 512");
  EXPECT_TRUE(CheckedValue(kLayers, std::vector<uint32_t>{400}, {}).ok()) << "the model is not known yet";
}

TEST(ParameterTest, AWholeNumberIsANumber) {
  const ParameterRow row = NumberRow("n", "", {0}, 1, "");
  const auto checked = CheckedValue(row, 2, {});
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(*checked, ParameterValue(2.0));
  EXPECT_EQ(CheckedValue(row, std::numeric_limits<double>::infinity(), {}).status().message(),
            "n is inf; use 0 or a larger, finite number");
}

TEST(ParameterTest, HelpStatesOwnerAndDefault) {
  EXPECT_EQ(HelpOf(kShare), "everytype: share of something; default 0.5");
  EXPECT_EQ(HelpOf(kCount), "everytype: how many; default 3");
  EXPECT_EQ(HelpOf(kWord), "everytype: which way; default near");
  EXPECT_EQ(HelpOf(kHeads), "everytype: heads of something");
  EXPECT_EQ(HelpOf(NumberRow("n", "", {0, 1}, 1.0 / 256, "x")), "sparse policies: x; default 1/256");
  EXPECT_EQ(FlagOf(kShare), "--et-share");
}

TEST(ParameterTest, WordsFromOutsideAreMadeFitForMessages) {
  const auto message = [](const std::string& word) {
    return std::string(CheckedValue(kWord, word, {}).status().message());
  };
  EXPECT_THAT(message("a\nb"), HasSubstr("'a\\nb'"));
  EXPECT_THAT(message(std::string(1000, 'x')), HasSubstr(fmt::format("'{}... (1000 bytes)'", std::string(64, 'x'))));
}

}  // namespace
}  // namespace tributary
