#include "client/cli/options.h"

#include <vector>

#include "client/api/request_builder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<Command> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "tributary");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

template <typename T>
T ParseAs(std::vector<const char*> arguments) {
  auto command = Parse(std::move(arguments));
  if (!command.ok() || !std::holds_alternative<T>(*command)) {
    ADD_FAILURE() << command.status();
    return {};
  }
  return std::get<T>(*command);
}

void ExpectUsageError(std::vector<const char*> arguments, const std::string& text) {
  const auto command = Parse(std::move(arguments));
  ASSERT_EQ(command.status().code(), absl::StatusCode::kInvalidArgument) << text;
  EXPECT_THAT(std::string(command.status().message()), HasSubstr(text));
}

TEST(OptionsTest, RunTakesTheFixedFlags) {
  const auto run = ParseAs<RunCommand>({"run", "--model", "models/probe", "--cpu-nodes", "4", "--window-tokens", "1024",
                                        "--sink-tokens", "0", "--prompt-file", "p.txt", "--max-tokens", "16",
                                        "--temperature", "0.5", "--kv-dtype", "f32", "--json"});
  EXPECT_EQ(run.cluster.model_dir, "models/probe");
  EXPECT_EQ(run.cluster.cpu_nodes, 4);
  EXPECT_EQ(run.request.window_tokens, 1024);
  EXPECT_EQ(run.request.sink_tokens, 0u);
  EXPECT_EQ(run.request.prompt_file, "p.txt");
  EXPECT_EQ(run.request.max_tokens, 16);
  EXPECT_FLOAT_EQ(run.request.temperature, 0.5f);
  EXPECT_EQ(run.request.kv_dtype, "f32");
  EXPECT_TRUE(run.request.json);
}

TEST(OptionsTest, SinkTokensNotGivenIsNotZero) {
  const auto run = ParseAs<RunCommand>({"run", "--model", "m", "--prompt", "x"});
  EXPECT_FALSE(run.request.sink_tokens.has_value());
}

TEST(OptionsTest, GenerateTakesTheSameRequestFlags) {
  const auto generate = ParseAs<GenerateCommand>({"generate",
                                                  "--coordinator",
                                                  "h:1",
                                                  "--prompt",
                                                  "x",
                                                  "--top-k",
                                                  "5",
                                                  "--top-p",
                                                  "0.9",
                                                  "--seed",
                                                  "7",
                                                  "--shard-cut",
                                                  "both",
                                                  "--block-tokens",
                                                  "16",
                                                  "--policy",
                                                  "dense",
                                                  "--ignore-eos",
                                                  "--min-p",
                                                  "0.1",
                                                  "--presence-penalty",
                                                  "-1",
                                                  "--frequency-penalty",
                                                  "0.5",
                                                  "--repetition-penalty",
                                                  "1.2",
                                                  "--logit-bias",
                                                  "5=-100",
                                                  "--logit-bias",
                                                  "6=2.5"});
  EXPECT_EQ(generate.coordinator, "h:1");
  EXPECT_EQ(generate.request.top_k, 5);
  EXPECT_EQ(generate.request.seed, 7);
  EXPECT_EQ(generate.request.shard_cut, "both");
  EXPECT_TRUE(generate.request.ignore_eos);
  GenerateSpec spec;
  ASSERT_TRUE(FillCommon(generate.request, spec).ok());
  const SamplingParams expected{.top_k = 5,
                                .top_p = 0.9f,
                                .seed = 7,
                                .min_p = 0.1f,
                                .presence_penalty = -1,
                                .frequency_penalty = 0.5f,
                                .repetition_penalty = 1.2f,
                                .logit_bias = {{5, -100}, {6, 2.5f}}};
  EXPECT_EQ(spec.sampling, expected);
  for (const char* bad : {"5", "=3", "5=", "5=x", "-1=2", "5=1 ", "99999999999=1"}) {
    RequestOptions options;
    options.logit_bias = {bad};
    EXPECT_NE(FillCommon(options, spec).message().find("is not TOKEN=BIAS"), std::string::npos) << bad;
  }
}

TEST(OptionsTest, GenerateKeepsAndContinues) {
  const auto first = ParseAs<GenerateCommand>({"generate", "--coordinator", "h:1", "--prompt", "x", "--request-id",
                                               "chat", "--keep-s", "1.5", "--keep-context-tokens", "5000"});
  EXPECT_EQ(first.request.request_id, "chat");
  EXPECT_EQ(first.request.keep_s, 1.5);
  EXPECT_EQ(first.request.keep_context_tokens, 5000u);
  const auto next = ParseAs<GenerateCommand>({"generate", "--coordinator", "h:1", "--continue", "chat"});
  EXPECT_EQ(next.request.continue_request_id, "chat");
  ExpectUsageError({"generate", "--coordinator", "h:1", "--prompt", "x", "--keep-s", "5"}, "--keep-context-tokens N");
  ExpectUsageError({"generate", "--coordinator", "h:1", "--prompt", "x", "--keep-context-tokens", "5"},
                   "--keep-s SECONDS");
  ExpectUsageError({"generate", "--coordinator", "h:1", "--prompt", "x", "--keep-s", "-1"}, "--keep-s");
  ExpectUsageError({"generate", "--coordinator", "h:1", "--prompt", "x", "--keep-s", "86401"}, "--keep-s");
  ExpectUsageError({"generate", "--coordinator", "h:1", "--continue", "a", "--request-id", "b"}, "--request-id");
}

TEST(OptionsTest, PolicyFlagsAreTheRequestsPolicy) {
  const std::vector<const char*> flags = {"--policy",
                                          "hgca",
                                          "--beta",
                                          "0.5",
                                          "--alpha",
                                          "0.25",
                                          "--keep-min",
                                          "3",
                                          "--keep-next",
                                          "4",
                                          "--group-aggregate",
                                          "max",
                                          "--max-cache-tokens",
                                          "512",
                                          "--min-kept-mass",
                                          "0.9",
                                          "--max-output-error",
                                          "0.05",
                                          "--quality-sample-rate",
                                          "0.125",
                                          "--dense-layers",
                                          "0,2",
                                          "--dense-heads",
                                          "1:0,3:1",
                                          "--report-attention-heads"};
  const PolicyRequest expected{.name = "hgca",
                               .parameters = {{"alpha", 0.25},
                                              {"beta", 0.5},
                                              {"keep_min", 3},
                                              {"keep_next", 4},
                                              {"group_aggregate", "max"},
                                              {"max_cache_tokens", 512},
                                              {"min_kept_mass", 0.9},
                                              {"max_output_error", 0.05},
                                              {"quality_sample_rate", 0.125},
                                              {"dense_layers", std::vector<uint32_t>{0, 2}},
                                              {"dense_heads", std::vector<LayerHead>{{1, 0}, {3, 1}}}}};
  const auto with = [&](std::vector<const char*> line) {
    line.insert(line.end(), flags.begin(), flags.end());
    return line;
  };
  const auto run = ParseAs<RunCommand>(with({"run", "--model", "m", "--prompt", "x"}));
  EXPECT_EQ(run.request.policy, expected);
  EXPECT_TRUE(run.request.report_attention_heads);
  EXPECT_EQ(ParseAs<GenerateCommand>(with({"generate", "--coordinator", "h:1", "--prompt", "x"})).request.policy,
            expected);
  EXPECT_EQ(ParseAs<ScoreCommand>(with({"score", "--model", "m", "--text-file", "t", "--prefill-tokens", "9"}))
                .request.policy,
            expected);
}

TEST(OptionsTest, ScoreTakesATextOrTokens) {
  const auto score = ParseAs<ScoreCommand>({"score", "--model", "m", "--tokens-file", "t", "--prefill-tokens", "9"});
  EXPECT_EQ(score.request.tokens_file, "t");
  ExpectUsageError({"score", "--model", "m", "--prefill-tokens", "9"}, "--text-file FILE or --tokens-file FILE");
  ExpectUsageError({"score", "--model", "m", "--prefill-tokens", "9", "--text-file", "t", "--tokens-file", "t"},
                   "--tokens-file");
}

TEST(OptionsTest, BadPoliciesAreToldBeforeAClusterStarts) {
  const auto expect = [](std::vector<const char*> flags, const char* words) {
    std::vector<const char*> line = {"run", "--model", "m", "--prompt", "x"};
    line.insert(line.end(), flags.begin(), flags.end());
    ExpectUsageError(line, words);
  };
  expect({"--policy", "frob"}, "policy 'frob' is not known");
  expect({"--beta", "1"}, "beta is 1, but it is a parameter of policy hgca");
  expect({"--policy", "hgca", "--alpha", "1.5"}, "alpha is 1.5");
  expect({"--policy", "hgca", "--beta", "-1"}, "beta is -1");
  expect({"--policy", "hgca", "--beta", "nan"}, "beta is nan");
  expect({"--policy", "hgca", "--dense-heads", "3"}, "--dense-heads has '3'");
  expect({"--policy", "hgca", "--keep-min", "65", "--block-tokens", "64"}, "keep_min");
}

TEST(OptionsTest, ClusterUpTakesSizesWithUnits) {
  const auto up = ParseAs<ClusterUpCommand>(
      {"cluster", "up", "--model", "m", "--kv-pool-bytes", "64MB", "--max-prefill-tokens", "131072"});
  EXPECT_EQ(up.cluster.max_prefill_tokens, 131072);
  EXPECT_EQ(up.cluster.kv_pool_bytes, uint64_t{64} << 20);
  EXPECT_EQ(up.cluster.cpu_nodes, 2);
}

TEST(OptionsTest, ScoreNeedsAModelOrACoordinatorButNotBoth) {
  const auto score = ParseAs<ScoreCommand>({"score", "--model", "m", "--text-file", "t", "--prefill-tokens", "100"});
  EXPECT_EQ(score.request.prefill_tokens, 100);
  ExpectUsageError({"score", "--text-file", "t", "--prefill-tokens", "3"}, "--model DIR");
  ExpectUsageError({"score", "--model", "m", "--coordinator", "h:1", "--text-file", "t", "--prefill-tokens", "3"},
                   "either");
}

TEST(OptionsTest, ErrorsNameTheFlagOrCommand) {
  ExpectUsageError({}, "a command is needed");
  ExpectUsageError({"frob"}, "unknown command 'frob'");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--frob"}, "--frob");
  ExpectUsageError({"run", "--prompt", "x"}, "--model");
  ExpectUsageError({"run", "--model", "m"}, "no prompt");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--prompt-file", "y"}, "excludes");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--max-tokens", "0"}, "--max-tokens");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--max-tokens", "-4"}, "--max-tokens");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--window-tokens", "-4"}, "--window-tokens");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--window-tokens", "many"}, "--window-tokens");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--kv-dtype", "int9"}, "--kv-dtype");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--temperature", "-1"}, "--temperature");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--all-resident", "--window-tokens", "64"},
                   "--all-resident");
  ExpectUsageError({"generate", "--coordinator", "nowhere", "--prompt", "x"}, "host:port");
}

TEST(OptionsTest, HelpAndVersionAreText) {
  EXPECT_THAT(ParseAs<PrintCommand>({"run", "--help"}).text, HasSubstr("--window-tokens"));
  EXPECT_THAT(ParseAs<PrintCommand>({"cluster", "up", "--help"}).text, HasSubstr("tributary cluster up"));
  EXPECT_THAT(ParseAs<PrintCommand>({"--version"}).text, HasSubstr("tributary 0."));
}

}  // namespace
}  // namespace tributary
