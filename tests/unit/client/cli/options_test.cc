#include "client/cli/options.h"

#include <cstdlib>
#include <utility>
#include <vector>

#include "client/api/request_builder.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/temp_dir.h"

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

TEST(OptionsTest, AQualityStandsForAPolicy) {
  const auto run = ParseAs<RunCommand>(
      {"run", "--model", "m", "--prompt", "x", "--quality", "high", "--quality-sample-rate", "0.5"});
  EXPECT_EQ(run.request.policy, (PolicyRequest{.parameters = {{"quality_sample_rate", 0.5}}, .quality = "high"}));
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--quality", "best"}, "--quality");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--quality", "high", "--policy", "hgca"},
                   "quality high chooses the policy (delta), but policy hgca is asked for, too");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--quality", "high", "--beta", "4"}, "beta is 4; drop it");
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
  expect({"--beta", "1"}, "--beta is 1, but it is a parameter of policy hgca");
  expect({"--policy", "hgca", "--alpha", "1.5"}, "--alpha is 1.5");
  expect({"--policy", "hgca", "--beta", "-1"}, "--beta is -1");
  expect({"--policy", "hgca", "--beta", "nan"}, "--beta: 'nan' is no finite number");
  expect({"--policy", "hgca", "--dense-heads", "3"}, "--dense-heads has '3'");
  expect({"--policy", "hgca", "--keep-min", "65", "--block-tokens", "64"}, "--keep-min");
  expect({"--policy", "hgca", "--group-aggregate", "most"}, "--group-aggregate 'most' is not known");
  expect({"--policy", "fluxion", "--budget-mode", "most"}, "--budget-mode 'most' is not known");
  expect({"--max-stall-s", "nan"}, "--max-stall-s: 'nan' is no finite number");
  expect({"--temperature", "nan"}, "--temperature: 'nan' is no finite number");
  expect({"--window-tokens", "10000000000"}, "--window-tokens: '10000000000' is no whole number from 0 to 4294967295");
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

TEST(OptionsTest, NumbersThatDoNotFitAreRefusedWithTheirValue) {
  const std::vector<std::pair<std::vector<const char*>, std::vector<const char*>>> commands = {
      {{"run", "--model", "m", "--prompt", "x"},
       {"--seed", "--max-cache-tokens", "--kv-pool-bytes", "--resident-pool-bytes", "--top-k", "--sink-tokens",
        "--max-nodes", "--node-threads", "--metrics-base-port"}},
      {{"generate", "--coordinator", "h:1", "--prompt", "x"}, {"--seed", "--keep-context-tokens"}},
      {{"eval", "--model", "m", "--text-file", "t", "--decode-tokens", "5"}, {"--seed", "--window-tokens"}},
      {{"chat", "--model", "m"}, {"--seed", "--keep-context-tokens"}}};
  for (const auto& [line, flags] : commands) {
    for (const char* flag : flags) {
      for (const char* value : {"-1", "18446744073709551616"}) {
        SCOPED_TRACE(std::string(line[0]) + " " + flag + " " + value);
        std::vector<const char*> words = line;
        words.insert(words.end(), {flag, value});
        ExpectUsageError(words, flag);
        ExpectUsageError(words, value);
      }
    }
  }
  EXPECT_EQ(
      ParseAs<RunCommand>({"run", "--model", "m", "--prompt", "x", "--seed", "18446744073709551615"}).request.seed,
      UINT64_MAX);
}

TEST(OptionsTest, DevicesAndThreadsAreCheckedBeforeAnythingStarts) {
  const auto run = ParseAs<RunCommand>({"run", "--model", "m", "--prompt", "x", "--device", "host,cuda,cuda:3"});
  EXPECT_EQ(run.cluster.devices, (std::vector<std::string>{"host", "cuda", "cuda:3"}));
  for (const char* device : {"gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:99999999999", "Host"}) {
    ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--device", device}, "is no device; use host, cuda");
  }
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--node-threads", "2000"}, "--node-threads: Value 2000");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--worker-threads", "2000"},
                   "--worker-threads: Value 2000");
}

TEST(OptionsTest, StopStringsAndTextFlags) {
  const auto run = ParseAs<RunCommand>({"run", "--model", "m", "--prompt", "x", "--stop", "END", "--stop", "[a,b]",
                                        "--tokenizer", "t", "--python", "p", "--quiet"});
  EXPECT_EQ(run.request.stops, (std::vector<std::string>{"END", "[a,b]"}));
  EXPECT_EQ(run.request.tokenizer_dir, "t");
  EXPECT_TRUE(run.request.quiet);
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--stop", ""}, "stop string is empty");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--quiet", "--json"}, "drop one of them");
  const auto generate = ParseAs<GenerateCommand>({"generate", "--coordinator", "h:1", "--model", "m", "--prompt", "x"});
  EXPECT_EQ(generate.model_dir, "m");
}

TEST(OptionsTest, AChatStartsAClusterOrAsksOne) {
  const auto chat = ParseAs<ChatCommand>({"chat", "--model", "m", "--system", "be brief", "--max-tokens", "7"});
  EXPECT_EQ(chat.system, "be brief");
  EXPECT_EQ(chat.request.max_tokens, 7u);
  EXPECT_GT(chat.request.keep_s, 0);
  EXPECT_GT(chat.request.keep_context_tokens, 0u);
  EXPECT_EQ(ParseAs<ChatCommand>({"chat", "--coordinator", "h:1", "--model", "m"}).cluster.model_dir, "m");
  ExpectUsageError({"chat"}, "--model DIR");
}

TEST(OptionsTest, WhatWasMeantIsSaid) {
  ExpectUsageError({"run", "--model", "m", "hello", "world"}, "'hello' stands behind no flag; did you mean --prompt");
  ExpectUsageError({"run", "--model", "m", "--promt", "x"},
                   "'--promt' is no flag of 'tributary run'; did you mean --prompt?");
  ExpectUsageError({"score", "--model", "m", "--prefill-tokens", "3", "t"}, "did you mean --text-file 't'");
  // Also where something that is required is missing, too.
  ExpectUsageError({"run", "--modle", "m", "--prompt", "x"},
                   "'--modle' is no flag of 'tributary run'; did you mean --model?");
  ExpectUsageError({"generate", "--prompt", "--frob", "--coordinatr", "h:1"},
                   "'--coordinatr' is no flag of 'tributary generate'; did you mean --coordinator?");
  ExpectUsageError({"cluster", "up", "--cpu-node=2"}, "did you mean --cpu-nodes?");
  ExpectUsageError({"generate", "--prompt", "x"}, "--coordinator is required");
  ExpectUsageError({"help", "frob"}, "no command 'frob'");
}

class ConfiguredTest : public ::testing::Test {
 protected:
  ~ConfiguredTest() override {
    for (const char* name : {"TRIBUTARY_WINDOW_TOKENS", "TRIBUTARY_IGNORE_EOS", "TRIBUTARY_PROMPT_FILE"})
      unsetenv(name);
  }
  std::string Config(const std::string& text) {
    const std::string path = dir_ / "config.toml";
    WriteFile(path, text);
    return path;
  }
  TempDir dir_;
};

TEST_F(ConfiguredTest, TheCommandLineComesBeforeTheEnvironmentAndThatBeforeTheFile) {
  const std::string file = Config(
      "# of everything\nwindow-tokens = 128\nsink-tokens = 5\nignore-eos = true\nstop = [\"a\", \"b c\"]\n"
      "text-file = \"other\"\n[run]\nmodel = \"m\"\ntop-k = 3\n[generate]\ntop-k = 4\n");
  const std::vector<const char*> line = {"run", "--prompt", "x", "--config", file.c_str()};
  auto run = ParseAs<RunCommand>(line);
  EXPECT_EQ(run.cluster.model_dir, "m");
  EXPECT_EQ(run.request.window_tokens, 128u);
  EXPECT_EQ(run.request.sink_tokens, 5u);
  EXPECT_EQ(run.request.top_k, 3u);
  EXPECT_TRUE(run.request.ignore_eos);
  EXPECT_EQ(run.request.stops, (std::vector<std::string>{"a", "b c"}));
  setenv("TRIBUTARY_WINDOW_TOKENS", "256", 1);
  setenv("TRIBUTARY_IGNORE_EOS", "false", 1);
  setenv("TRIBUTARY_PROMPT_FILE", "p", 1);  // --prompt excludes it
  run = ParseAs<RunCommand>(line);
  EXPECT_EQ(run.request.window_tokens, 256u);
  EXPECT_FALSE(run.request.ignore_eos);
  EXPECT_EQ(run.request.prompt_file, "");
  run = ParseAs<RunCommand>({"run", "--prompt", "x", "--config", file.c_str(), "--window-tokens=512"});
  EXPECT_EQ(run.request.window_tokens, 512u);
}

TEST_F(ConfiguredTest, BadValuesAreToldWithWhereTheyAreFrom) {
  setenv("TRIBUTARY_WINDOW_TOKENS", "-4", 1);
  ExpectUsageError({"run", "--model", "m", "--prompt", "x"}, "from the environment's TRIBUTARY_WINDOW_TOKENS");
  unsetenv("TRIBUTARY_WINDOW_TOKENS");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--config", "/nonexistent"}, "/nonexistent");
  const std::string unknown = Config("windw-tokens = 5\n");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--config", unknown.c_str()},
                   "did you mean 'window-tokens'");
  const std::string maybe = Config("ignore-eos = maybe\n");
  ExpectUsageError({"run", "--model", "m", "--prompt", "x", "--config", maybe.c_str()}, "neither true nor false");
}

TEST(OptionsTest, CompletionAndManualHaveEveryFlag) {
  const std::string completion = ParseAs<PrintCommand>({"completion", "bash"}).text;
  const std::string manual = ParseAs<PrintCommand>({"man"}).text;
  for (const char* flag : {"--window-tokens", "--stop", "--metrics-base-port", "--decode-tokens", "--watch"}) {
    EXPECT_THAT(completion, HasSubstr(flag));
    std::string escaped;
    for (const char* c = flag; *c != 0; ++c) escaped += *c == '-' ? "\\-" : std::string(1, *c);
    EXPECT_THAT(manual, HasSubstr(escaped));
  }
  EXPECT_THAT(completion, HasSubstr("'run --kv-dtype') COMPREPLY=($(compgen -W 'bf16 f16 f32'"));
}

TEST(OptionsTest, HelpAndVersionAreText) {
  EXPECT_THAT(ParseAs<PrintCommand>({"run", "--help"}).text, HasSubstr("--window-tokens"));
  EXPECT_THAT(ParseAs<PrintCommand>({"cluster", "up", "--help"}).text, HasSubstr("tributary cluster up"));
  EXPECT_THAT(ParseAs<PrintCommand>({"--version"}).text, HasSubstr("tributary 0."));
  EXPECT_THAT(ParseAs<PrintCommand>({"version"}).text, HasSubstr("tributary 0."));
  EXPECT_THAT(ParseAs<PrintCommand>({"help"}).text, HasSubstr("chat"));
  EXPECT_THAT(ParseAs<PrintCommand>({"help", "cluster", "up"}).text, HasSubstr("--port-file"));
}

}  // namespace
}  // namespace tributary
