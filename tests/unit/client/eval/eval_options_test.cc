#include "client/eval/eval_options.h"

#include "client/cli/options.h"
#include "client/eval/eval_report.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<Command> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), {"tributary", "eval"});
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

TEST(EvalOptionsTest, TakesTheFixedFlags) {
  const auto command = Parse({"--model",     "DIR", "--policy",         "dense",     "--window-tokens", "1024,256",
                              "--text-file", "F",   "--prefill-tokens", "1000",      "--decode-tokens", "100",
                              "--needles",   "8",   "--lengths",        "4096,8192", "--json",          "OUT",
                              "--csv",       "C"});
  ASSERT_TRUE(command.ok()) << command.status();
  const EvalOptions& options = std::get<EvalCommand>(*command).options;
  EXPECT_EQ(options.cluster.model_dir, "DIR");
  EXPECT_THAT(options.policies, ElementsAre("dense"));
  EXPECT_THAT(options.window_tokens, ElementsAre(1024, 256));
  EXPECT_THAT(options.text_files, ElementsAre("F"));
  EXPECT_EQ(options.prefill_tokens, 1000u);
  EXPECT_EQ(options.decode_tokens, 100u);
  EXPECT_EQ(options.needles, 8u);
  EXPECT_THAT(options.lengths, ElementsAre(4096, 8192));
  EXPECT_EQ(options.json_file, "OUT");
  EXPECT_EQ(options.csv_file, "C");
}

TEST(EvalOptionsTest, BadFlagsAreNamed) {
  const std::vector<const char*> good{"--model", "m", "--text-file", "f", "--decode-tokens", "5"};
  const std::pair<std::vector<const char*>, const char*> cases[] = {
      {{"--policy", "frob"}, "policy 'frob' is not known; this build has: dense"},
      {{"--beta", "1,2"}, "--beta is no parameter of dense"},
      {{"--min-kept-mass", "0.9"}, "--min-kept-mass is no parameter of dense"},
      {{"--dense-heads", "2:0"}, "--dense-heads is no parameter of dense"},
      {{"--group-aggregate", "max"}, "--group-aggregate is no parameter of dense"},
      {{"--top-logprobs", "1025"}, "--top-logprobs is 1025; use at most 1024"},
      {{"--window-tokens", "1024,0"}, "--window-tokens has 0"},
      {{"--needles", "4"}, "--needles 4 needs --lengths"},
      {{"--lengths", "4"}, "--needles is 0"},
      {{"--needles", "4", "--lengths", "9", "--depths", "0.5,1.5"}, "--depths has 1.5"},
      {{"--needles", "4", "--lengths", "9", "--depths", "nan"}, "--depths: 'nan' is no finite number"},
      {{"--needles", "4", "--lengths", "9", "--tasks", "pair"}, "task 'pair' is not known; use single, multi-key"},
      {{"--needles", "4", "--lengths", "9", "--tasks", "single", "--turns"}, "--turns is for"},
      {{"--chat-template", "always"}, "--chat-template"},
      {{"--needles", "4", "--lengths", "9", "--turns", "--decode-question"}, "drop one of them"},
      {{"--coordinator", "h:1"}, "give either --model DIR"},
      {{"--decode-tokens", "0"}, "nothing is asked for"},
      {{"--prefill-tokens", "0"}, "--prefill-tokens"},
      {{"--text-tokens-file", "t"}, "--text-tokens-file"},
  };
  for (const auto& [flags, text] : cases) {
    std::vector<const char*> arguments = good;
    if (std::string(flags[0]) == "--decode-tokens") arguments.resize(4);
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const auto command = Parse(arguments);
    ASSERT_FALSE(command.ok()) << text;
    EXPECT_THAT(std::string(command.status().message()), HasSubstr(text));
  }
}

TEST(EvalOptionsTest, NeedlesNeedAText) {
  const auto command = Parse({"--model", "m", "--text-tokens-file", "t", "--needles", "1", "--lengths", "100"});
  ASSERT_FALSE(command.ok());
  EXPECT_THAT(std::string(command.status().message()), HasSubstr("give --text-file FILE"));
}

TEST(EvalOptionsTest, TasksWithoutNeedlesNeedNone) {
  const auto command = Parse(
      {"--model", "m", "--text-file", "a,b", "--lengths", "100", "--tasks", "key-value,extraction", "--fields", "5"});
  ASSERT_TRUE(command.ok()) << command.status();
  const EvalOptions& options = std::get<EvalCommand>(*command).options;
  EXPECT_THAT(options.text_files, ElementsAre("a", "b"));
  EXPECT_THAT(options.tasks, ElementsAre("key-value", "extraction"));
  EXPECT_EQ(options.fields, 5u);
}

TEST(EvalOptionsTest, TheGridBeginsWithDense) {
  EvalOptions options;
  options.policies = {"dense", "dense"};
  options.window_tokens = {256, 1024};
  const auto grid = ExpandGrid(options);
  ASSERT_TRUE(grid.ok()) << grid.status();
  ASSERT_EQ(grid->size(), 2u);
  for (const EvalSetting& setting : *grid) EXPECT_EQ(SettingName(setting), "dense");
  EXPECT_EQ((*grid)[0].window_tokens, 256u);
  EXPECT_EQ((*grid)[1].window_tokens, 1024u);
}

TEST(EvalOptionsTest, WhatAPolicyDoesNotLookAtMakesNoSettings) {
  EvalOptions options;
  options.policies = {"fluxion"};
  options.parameters = {{"budget_mode", {"fixed", "calibrated", "oracle"}},
                        {"budget", {0.05, 0.1}},
                        {"max_budget", {0.1, 0.2, 0.3}},
                        {"target_output_error", {0.1}}};
  const auto grid = ExpandGrid(options);
  ASSERT_TRUE(grid.ok()) << grid.status();
  std::vector<std::string> names;
  for (const EvalSetting& setting : *grid) names.push_back(SettingName(setting));
  EXPECT_THAT(names,
              ElementsAre("dense", "fluxion budget_mode=fixed budget=0.05", "fluxion budget_mode=fixed budget=0.1",
                          "fluxion budget_mode=calibrated max_budget=0.1 target_output_error=0.1",
                          "fluxion budget_mode=calibrated max_budget=0.2 target_output_error=0.1",
                          "fluxion budget_mode=calibrated max_budget=0.3 target_output_error=0.1",
                          "fluxion budget_mode=oracle target_output_error=0.1"));
  // A value that is not used is checked all the same.
  options.parameters[1] = {"budget", {7.0}};
  EXPECT_FALSE(ExpandGrid(options).ok());
}

TEST(EvalOptionsTest, SettingsAreNamedByWhatWasGiven) {
  EXPECT_EQ(SettingName({{.name = "hgca", .parameters = {{"alpha", 0.5}, {"beta", 1}, {"min_kept_mass", 0.9}}}, 256}),
            "hgca alpha=0.5 beta=1 min_kept_mass=0.9");
  EXPECT_EQ(SettingName({{.name = "hgca",
                          .parameters = {{"keep_next", 8},
                                         {"group_aggregate", "max"},
                                         {"max_cache_tokens", 512},
                                         {"dense_layers", std::vector<uint32_t>{0, 3}},
                                         {"dense_heads", std::vector<LayerHead>{{2, 0}, {3, 1}}}}},
                         256}),
            "hgca keep_next=8 group_aggregate=max max_cache_tokens=512 dense_layers=0,3 "
            "dense_heads=2:0,3:1");
}

}  // namespace
}  // namespace tributary
