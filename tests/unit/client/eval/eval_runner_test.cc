#include "client/eval/eval_runner.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/byte_text.h"
#include "proto/convert_policy.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

// A cluster that reads the answer out of the prompt, but only in its last `sees` bytes; and that finds every token as
// likely as the next.
class FakeCluster {
 public:
  absl::StatusOr<GenerateResult> Ask(const v1::GenerateRequest& request,
                                     const std::function<void(double)>& on_progress) {
    requests.push_back(request);
    on_progress(0.5);
    if (requests.size() > fail_after) return absl::UnavailableError("the node has gone");
    std::vector<uint32_t> prompt(request.prompt_tokens().begin(), request.prompt_tokens().end());
    if (!request.continue_request_id().empty()) {
      EXPECT_EQ(request.continue_request_id(), "kept");
      EXPECT_FALSE(request.has_placement());
      EXPECT_FALSE(request.has_attention_policy());
      prompt.insert(prompt.begin(), history.begin(), history.end());
    }
    const std::vector<uint32_t> forced(request.forced_tokens().begin(), request.forced_tokens().end());
    const std::string said = BytesFromTokens(prompt) + BytesFromTokens(forced);
    GenerateResult result;
    result.tokens = forced;
    if (forced.size() < request.max_tokens()) {
      const std::string stem = said.substr(said.rfind('\n') + 1);
      const size_t at = said.find(stem);
      std::string answer(request.max_tokens() - forced.size(), '?');
      if (at + sees >= said.size()) answer = said.substr(at + stem.size(), answer.size());
      const std::vector<uint32_t> tokens = TokensFromBytes(answer);
      result.tokens.insert(result.tokens.end(), tokens.begin(), tokens.end());
    }
    history = prompt;
    history.insert(history.end(), result.tokens.begin(), result.tokens.end());
    if (request.has_keep() && keeps) {
      EXPECT_GE(request.keep().max_context_tokens() == 0 ? kept_context_tokens : request.keep().max_context_tokens(),
                history.size());
      if (request.continue_request_id().empty()) {
        kept_context_tokens = request.keep().max_context_tokens();
      }
      result.summary.mutable_kept()->set_request_id("kept");
    }
    result.logprobs.assign(result.tokens.size(), static_cast<float>(std::log(0.25)));
    for (size_t i = 0; i < result.tokens.size() && request.top_logprobs() > 0; ++i) {
      result.top_logprobs.push_back(Alternatives(result.tokens[i], request.top_logprobs()));
    }
    auto& summary = result.summary;
    summary.set_prompt_tokens(static_cast<uint32_t>(prompt.size()));
    summary.set_generated_tokens(request.max_tokens());
    summary.set_context_tokens(history.size());
    summary.set_remote_tokens(prompt.size() / 2);
    summary.set_attended_tokens_mean(prompt.size() + request.max_tokens() / 2.0);
    if (attention.ByteSizeLong() > 0) *summary.mutable_attention() = attention;
    return result;
  }

  // 0.25 for the token, less than its share of the rest for each of the others.
  v1::TopLogprobs Alternatives(uint32_t token, uint32_t count) const {
    v1::TopLogprobs top;
    for (uint32_t i = 0; i < count; ++i) {
      top.add_tokens((token + i) % 256);
      top.add_logprobs(static_cast<float>(std::log(i == 0 ? 0.25 : 0.75 / 255)));
    }
    if (spoil_alternatives) top.set_logprobs(0, NAN);
    return top;
  }

  std::vector<v1::GenerateRequest> requests;
  v1::GenerateEvent::AttentionQuality attention;  // of every answer; empty: none is told
  bool spoil_alternatives = false;
  bool keeps = true;
  std::vector<uint32_t> history;  // of the latest request: what it was asked, and the answer
  uint64_t kept_context_tokens = 0;
  size_t sees = 1 << 20;
  size_t fail_after = 1 << 20;
};

v1::GenerateEvent::Summary HeadSummary(uint64_t samples, double share, double mean, double min) {
  v1::GenerateEvent::Summary summary;
  summary.mutable_attention()->set_samples(samples);
  for (const uint32_t layer : {0u, 2u}) {
    auto& head = *summary.mutable_attention()->add_heads();
    head.set_layer(layer);
    head.set_kv_head(1);
    head.set_read_share(share);
    head.set_kept_mass_mean(mean);
    head.set_kept_mass_min(min);
    head.set_output_error_mean(1 - mean);
    head.set_output_error_max(1 - min);
  }
  return summary;
}

class EvalRunnerTest : public ::testing::Test {
 protected:
  EvalRunnerTest() {
    std::ofstream file(path_, std::ios::binary);
    for (int i = 0; i < 1500; ++i) file << "word" << i << (i % 9 == 0 ? "\n" : " ");
    file.close();
    options_.cluster.model_dir = "m";
    options_.text_file = path_;
    options_.prefill_tokens = 1000;
    options_.decode_tokens = 20;
    options_.needles = 4;
    options_.queries = 2;
    options_.lengths = {2000};
    options_.depths = {0.0, 1.0};
    options_.window_tokens = {256, 512};
  }
  ~EvalRunnerTest() override { std::filesystem::remove(path_); }

  static v1::ModelGeometry Geometry(uint32_t vocab_size) {
    v1::ModelGeometry geometry;
    geometry.set_num_layers(6);
    geometry.set_num_q_heads(8);
    geometry.set_num_kv_heads(2);
    geometry.set_vocab_size(vocab_size);
    return geometry;
  }

  EvalPlan Plan() {
    auto plan = MakeEvalPlan(options_);
    EXPECT_TRUE(plan.ok()) << plan.status();
    const absl::Status fits = FitToModel(Geometry(256), &*plan);
    EXPECT_TRUE(fits.ok()) << fits;
    return *std::move(plan);
  }

  EvalReport Run(const EvalPlan& plan) {
    EvalReport report;
    report.cluster.mutable_geometry()->set_model_name("fake");
    std::FILE* progress = std::tmpfile();
    ManualClock clock;
    RunEval(
        plan,
        [this](const v1::GenerateRequest& request, const std::function<void(double)>& progress) {
          return cluster_.Ask(request, progress);
        },
        progress, &clock, &report);
    progress_text_.resize(static_cast<size_t>(std::ftell(progress)));
    std::rewind(progress);
    EXPECT_EQ(std::fread(progress_text_.data(), 1, progress_text_.size(), progress), progress_text_.size());
    std::fclose(progress);
    return report;
  }

  const std::string path_ = std::filesystem::temp_directory_path() / ("eval_runner_" + std::to_string(getpid()));
  EvalOptions options_;
  FakeCluster cluster_;
  std::string progress_text_;
};

TEST_F(EvalRunnerTest, RunsEverySettingOnTheSameQuestions) {
  const EvalPlan plan = Plan();
  // Per setting: one perplexity, 2 single, 2 multi-key, 2 multi-query.
  ASSERT_EQ(plan.jobs.size(), 2 * 7u);
  const EvalReport report = Run(plan);
  ASSERT_TRUE(report.status.ok()) << report.status;
  ASSERT_EQ(report.results.size(), 2u);
  for (const SettingResult& result : report.results) {
    EXPECT_NEAR(result.perplexity->perplexity, 4.0, 1e-5);
    EXPECT_EQ(result.needles.size(), 6u);
    for (const NeedleResult& needle : result.needles) EXPECT_TRUE(needle.found);
  }
  for (size_t i = 0; i < 7; ++i) {
    v1::GenerateRequest first = cluster_.requests[i];
    v1::GenerateRequest second = cluster_.requests[i + 7];
    EXPECT_EQ(first.placement().window_tokens(), 256u);
    EXPECT_EQ(second.placement().window_tokens(), 512u);
    EXPECT_EQ(first.attention_policy().name(), "dense");
    EXPECT_TRUE(first.ignore_eos());
    second.mutable_placement()->set_window_tokens(256);
    EXPECT_EQ(first.SerializeAsString(), second.SerializeAsString());
  }
  EXPECT_THAT(progress_text_, HasSubstr("[100 %, 0 s left] dense, window 512: multi-query needle"));
}

TEST_F(EvalRunnerTest, ThePerplexityJobScoresTheTextBehindThePrefill) {
  options_.needles = 0;
  options_.lengths.clear();
  const EvalPlan plan = Plan();
  Run(plan);
  const v1::GenerateRequest& request = cluster_.requests[0];
  EXPECT_EQ(request.prompt_tokens_size(), 1000);
  EXPECT_EQ(request.forced_tokens_size(), 20);
  EXPECT_EQ(request.max_tokens(), 20u);
  EXPECT_EQ(plan.text_tokens[1000], request.forced_tokens(0));
}

TEST_F(EvalRunnerTest, WhatTheClusterDoesNotSeeIsMissed) {
  options_.decode_tokens = 0;
  options_.needle_kinds = {"single"};
  options_.window_tokens = {256};
  cluster_.sees = 500;
  const EvalPlan plan = Plan();
  const EvalReport report = Run(plan);
  ASSERT_TRUE(report.status.ok()) << report.status;
  ASSERT_EQ(report.results[0].needles.size(), 2u);
  EXPECT_FALSE(report.results[0].needles[0].found);  // depth 0
  EXPECT_TRUE(report.results[0].needles[1].found);   // depth 1
  const auto json = EvalJson(plan, report);
  EXPECT_EQ(json["settings"][0]["needles"]["asked"], 2);
  EXPECT_EQ(json["settings"][0]["needles"]["found"], 1);
  EXPECT_EQ(json["settings"][0]["needles"]["questions"][0]["answer"], "???????");
}

TEST_F(EvalRunnerTest, TheQuestionCanBeFedTokenByToken) {
  options_.decode_tokens = 0;
  options_.decode_question = true;
  const EvalPlan plan = Plan();
  const EvalReport report = Run(plan);
  ASSERT_TRUE(report.status.ok()) << report.status;
  for (const NeedleResult& needle : report.results[0].needles) EXPECT_TRUE(needle.found);
  const v1::GenerateRequest& request = cluster_.requests[0];
  EXPECT_EQ(request.forced_tokens_size() + 7, static_cast<int>(request.max_tokens()));
  EXPECT_EQ(request.forced_tokens(0), static_cast<uint32_t>('\n'));
}

TEST_F(EvalRunnerTest, QuestionsCanBeTurnsOfOneSequence) {
  options_.decode_tokens = 0;
  options_.needle_kinds = {"multi-query"};
  options_.queries = 4;
  options_.window_tokens = {256};
  const EvalReport fresh = Run(Plan());
  const std::vector<v1::GenerateRequest> apart = std::move(cluster_.requests);
  cluster_.requests.clear();
  options_.turns = true;
  const EvalPlan plan = Plan();
  const EvalReport report = Run(plan);
  ASSERT_TRUE(report.status.ok()) << report.status;
  ASSERT_EQ(cluster_.requests.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const v1::GenerateRequest& request = cluster_.requests[i];
    EXPECT_TRUE(report.results[0].needles[i].found);
    EXPECT_EQ(request.has_keep(), i < 3);
    EXPECT_EQ(request.continue_request_id(), i == 0 ? "" : "kept");
    EXPECT_EQ(request.keep().max_context_tokens(), i == 0 ? 2007u : 0u);
    if (i == 0) {
      EXPECT_EQ(request.prompt_tokens_size(), apart[0].prompt_tokens_size());
    } else {
      EXPECT_LT(request.prompt_tokens_size(), 60);
    }
  }
  // The same context as with prompts of their own, since every answer is right.
  EXPECT_EQ(cluster_.history.size(), apart[3].prompt_tokens_size() + 7u);
  EXPECT_EQ(fresh.results[0].needles[3].answer, report.results[0].needles[3].answer);

  cluster_.keeps = false;
  const EvalReport lost = Run(plan);
  EXPECT_EQ(lost.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(lost.status.message()), HasSubstr("did not keep the sequence"));
}

TEST_F(EvalRunnerTest, AFailureKeepsWhatWasFound) {
  cluster_.fail_after = 8;  // the perplexity of the second setting is there
  const EvalPlan plan = Plan();
  const EvalReport report = Run(plan);
  EXPECT_EQ(report.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(report.status.message()),
              HasSubstr("dense, window 512: single needle in 2000 tokens: the node has gone"));
  const auto json = EvalJson(plan, report);
  EXPECT_FALSE(json["complete"]);
  EXPECT_THAT(std::string(json["error"]), HasSubstr("the node has gone"));
  EXPECT_EQ(json["settings"][0]["needles"]["found"], 6);
  EXPECT_FALSE(json["settings"][1]["perplexity"].is_null());
  EXPECT_TRUE(json["settings"][1]["needles"].is_null());
}

TEST_F(EvalRunnerTest, ResultsCanBeSavedAfterEachSetting) {
  const EvalPlan plan = Plan();
  EvalReport report;
  std::FILE* out = std::tmpfile();
  ManualClock clock;
  std::vector<nlohmann::ordered_json> saved;
  const auto ask = [this](const v1::GenerateRequest& request, const std::function<void(double)>& progress) {
    return cluster_.Ask(request, progress);
  };
  RunEval(plan, ask, out, &clock, &report, [&] {
    saved.push_back(EvalJson(plan, report));
    return absl::OkStatus();
  });
  ASSERT_EQ(saved.size(), 2u);
  EXPECT_FALSE(saved[0]["complete"]);
  EXPECT_TRUE(saved[0]["error"].is_null());
  EXPECT_EQ(saved[0]["settings"].size(), 1u);
  EXPECT_TRUE(saved[1]["complete"]);

  report = {};
  RunEval(plan, ask, out, &clock, &report, [] { return absl::UnavailableError("disk full"); });
  EXPECT_EQ(report.results.size(), 1u);
  EXPECT_EQ(std::string(report.status.message()), "disk full");
  std::fclose(out);
}

TEST_F(EvalRunnerTest, JsonAndCsvSayTheSame) {
  const EvalPlan plan = Plan();
  const EvalReport report = Run(plan);
  const auto json = EvalJson(plan, report);
  EXPECT_EQ(json["schema"], "tributary.eval/1");
  EXPECT_TRUE(json["complete"]);
  const auto& setting = json["settings"][1];
  EXPECT_EQ(setting["window_tokens"], 512);
  EXPECT_TRUE(setting["beta"].is_null());
  EXPECT_NEAR(setting["perplexity"]["perplexity_ratio"], 1.0, 1e-9);
  EXPECT_EQ(setting["perplexity"]["logprob_abs_diff_max"], 0.0);
  EXPECT_EQ(setting["perplexity"]["remote_read_share"], 1.0);
  EXPECT_EQ(setting["perplexity"]["logprobs"].size(), 20u);
  EXPECT_EQ(setting["perplexity"]["kl"].size(), 20u);
  EXPECT_EQ(setting["perplexity"]["kl_max"], 0.0);
  EXPECT_TRUE(setting["perplexity"]["kl_is_exact"]);
  EXPECT_EQ(setting["perplexity"]["top1_agreement"], 1.0);
  const auto& question = setting["needles"]["questions"][1];
  EXPECT_EQ(question["kind"], "single");
  EXPECT_GT(question["depth"], 0.9);
  const std::string csv = EvalCsv(plan, report);
  EXPECT_THAT(csv, HasSubstr("policy,window_tokens,alpha,"));
  EXPECT_THAT(csv, HasSubstr("\n\"dense\",512,,,,,,,,,,,"));
  const size_t columns = static_cast<size_t>(std::count(csv.begin(), csv.begin() + csv.find('\n'), ','));
  EXPECT_EQ(static_cast<size_t>(std::count(csv.begin(), csv.end(), ',')), 3 * columns);
  EXPECT_THAT(EvalTable(plan, report), HasSubstr("6/6"));
}

TEST_F(EvalRunnerTest, JsonHasWhatTheHeadsKept) {
  cluster_.attention = HeadSummary(5, 0.25, 0.75, 0.5).attention();
  cluster_.attention.set_remote_read_share(0.125);
  cluster_.attention.set_kept_mass_mean(0.9);
  cluster_.attention.set_kept_mass_min(0.6);
  cluster_.attention.set_output_error_mean(0.03);
  cluster_.attention.set_output_error_p95(0.07);
  cluster_.attention.set_output_error_max(0.2);
  const EvalPlan plan = Plan();
  const EvalReport report = Run(plan);
  auto json = EvalJson(plan, report);
  const auto& setting = json["settings"][1];
  EXPECT_EQ(setting["perplexity"]["output_error_mean"], 0.03);
  EXPECT_EQ(setting["perplexity"]["output_error_p95"], 0.07);
  EXPECT_EQ(setting["perplexity"]["output_error_max"], 0.2);
  EXPECT_NEAR(setting["needles"]["output_error_mean"], 0.03, 1e-12);
  EXPECT_EQ(setting["needles"]["output_error_max"], 0.2);
  EXPECT_EQ(setting["heads"]["output_error_mean"][2][1], 0.25);
  EXPECT_EQ(setting["heads"]["output_error_max"][0][1], 0.5);
  const std::string csv = EvalCsv(plan, report);
  EXPECT_THAT(csv, HasSubstr("kept_mass_min,output_error_mean,output_error_p95,output_error_max,needles_asked"));
  EXPECT_THAT(csv, HasSubstr("0.9,0.6,0.03,0.07,0.2,"));
  EXPECT_THAT(EvalTable(plan, report), HasSubstr("90.00 %      0.07"));
  EXPECT_EQ(setting["perplexity"]["remote_read_share"], 0.125);
  EXPECT_EQ(setting["perplexity"]["kept_mass_mean"], 0.9);
  EXPECT_EQ(setting["needles"]["kept_mass_min"], 0.6);
  EXPECT_NEAR(setting["needles"]["kept_mass_mean"], 0.9, 1e-12);
  const auto expected = nlohmann::ordered_json::parse("[[null,0.25],[null,null],[null,0.25]]");
  EXPECT_EQ(setting["heads"]["remote_read_share"], expected);
  EXPECT_EQ(setting["heads"]["kept_mass_mean"][2][1], 0.75);
  EXPECT_EQ(setting["heads"]["kept_mass_min"][0][1], 0.5);
  for (const v1::GenerateRequest& request : cluster_.requests) {
    EXPECT_TRUE(request.report_attention_heads());
  }
  cluster_.attention.set_samples(0);
  json = EvalJson(plan, Run(plan));
  EXPECT_FALSE(json["settings"][1].contains("heads"));
  EXPECT_TRUE(json["settings"][1]["perplexity"]["kept_mass_mean"].is_null());
  EXPECT_TRUE(json["settings"][1]["perplexity"]["output_error_p95"].is_null());
}

TEST_F(EvalRunnerTest, ATextTooShortIsRefusedBeforeAnythingRuns) {
  options_.prefill_tokens = 1'000'000;
  const auto plan = MakeEvalPlan(options_);
  ASSERT_FALSE(plan.ok());
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("need 1000020"));
  options_.prefill_tokens = 100;
  options_.text_file = "/nonexistent/text";
  EXPECT_EQ(MakeEvalPlan(options_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(EvalRunnerTest, BytesNeedAByteVocabulary) {
  const EvalPlan plan = Plan();
  EXPECT_EQ(plan.top_logprobs, 256u);
  EvalPlan other = plan;
  EXPECT_THAT(std::string(FitToModel(Geometry(128'256), &other).message()), HasSubstr("--text-tokens-file"));
}

TEST_F(EvalRunnerTest, AlternativesAreAskedForAsTheModelAllows) {
  options_.needles = 0;
  options_.lengths.clear();
  options_.text_tokens_file = path_;
  options_.text_file.clear();
  std::ofstream file(path_, std::ios::binary);
  for (int i = 0; i < 1500; ++i) file << i % 40 << " ";
  file.close();
  auto plan = MakeEvalPlan(options_);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(FitToModel(Geometry(128'256), &*plan).ok());
  EXPECT_EQ(plan->top_logprobs, kDefaultTopLogprobs);
  EXPECT_EQ(BuildEvalRequest(*plan, plan->jobs[0])->top_logprobs(), kDefaultTopLogprobs);
  ASSERT_TRUE(FitToModel(Geometry(50), &*plan).ok());
  EXPECT_EQ(plan->top_logprobs, 50u);
  plan->options.top_logprobs = 0;
  ASSERT_TRUE(FitToModel(Geometry(128'256), &*plan).ok());
  EXPECT_EQ(plan->top_logprobs, 0u);
}

TEST_F(EvalRunnerTest, RequestsCarryThePolicyOfTheirSetting) {
  EvalPlan plan = Plan();
  plan.settings[1].policy = {
      .name = "hgca", .parameters = {{"beta", 2}, {"keep_next", 8}, {"dense_heads", std::vector<LayerHead>{{2, 1}}}}};
  for (const EvalJob& job : plan.jobs) {
    const auto request = BuildEvalRequest(plan, job);
    ASSERT_TRUE(request.ok()) << request.status();
    const v1::AttentionPolicy& policy = request->attention_policy();
    EXPECT_EQ(policy.name(), job.setting == 0 ? "dense" : "hgca");
    if (job.setting == 0) continue;
    // What is not given is left to the coordinator's defaults.
    EXPECT_EQ(*PolicyFromProto(policy), plan.settings[1].policy);
  }
}

TEST_F(EvalRunnerTest, LayersThatTheModelHasNotAreRefused) {
  EvalPlan plan = Plan();
  plan.settings.push_back({{.name = "hgca", .parameters = {{"dense_heads", std::vector<LayerHead>{{6, 0}}}}}, 256});
  EXPECT_THAT(std::string(FitToModel(Geometry(256), &plan).message()), HasSubstr("dense_heads names 6:0"));
}

TEST_F(EvalRunnerTest, AnswersThatAreNoDistributionsAreAnError) {
  cluster_.spoil_alternatives = true;
  const EvalPlan plan = Plan();
  const EvalReport report = Run(plan);
  EXPECT_EQ(report.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(report.status.message()),
              HasSubstr("the cluster answered 256 alternatives to token 0 where 256 were asked "
                        "for: the log-probability of token"));
}

TEST(EvalResultsTest, SharesFollowWhatWasAttended) {
  v1::GenerateEvent::Summary summary;
  summary.set_context_tokens(1021);
  summary.set_generated_tokens(21);  // 20 steps, over 1001 to 1020 tokens
  summary.set_remote_tokens(800);
  summary.set_attended_tokens_mean(1010.5);
  EXPECT_DOUBLE_EQ(UsageOf(summary).kv_read_share, 1.0);
  EXPECT_DOUBLE_EQ(UsageOf(summary).remote_read_share, 1.0);
  summary.set_attended_tokens_mean(1010.5 - 720);
  EXPECT_DOUBLE_EQ(UsageOf(summary).context_tokens_mean, 1010.5);
  EXPECT_DOUBLE_EQ(UsageOf(summary).remote_read_share, 0.1);
  EXPECT_NEAR(UsageOf(summary).kv_read_share, 290.5 / 1010.5, 1e-12);
  summary.set_context_tokens(1001);
  summary.set_generated_tokens(1);
  EXPECT_DOUBLE_EQ(UsageOf(summary).remote_read_share, 1.0);
}

TEST(EvalResultsTest, WhatTheClusterSaysOfItsReadsIsTaken) {
  v1::GenerateEvent::Summary summary;
  summary.set_context_tokens(1021);
  summary.set_generated_tokens(21);
  summary.set_remote_tokens(800);
  summary.set_attended_tokens_mean(600);
  auto& attention = *summary.mutable_attention();
  attention.set_remote_read_share(0.3);
  EXPECT_DOUBLE_EQ(UsageOf(summary).remote_read_share, 0.3);
  EXPECT_FALSE(UsageOf(summary).kept_mass_mean.has_value());  // no step was measured
  attention.set_samples(4);
  attention.set_kept_mass_mean(0.9);
  attention.set_kept_mass_min(0.5);
  attention.set_output_error_mean(0.01);
  attention.set_output_error_p95(0.02);
  attention.set_output_error_max(0.04);
  EXPECT_EQ(UsageOf(summary).output_error_mean, 0.01);
  EXPECT_EQ(UsageOf(summary).output_error_p95, 0.02);
  EXPECT_EQ(UsageOf(summary).output_error_max, 0.04);
  EXPECT_EQ(UsageOf(summary).kept_mass_mean, 0.9);
  EXPECT_EQ(UsageOf(summary).kept_mass_min, 0.5);
}

TEST(EvalResultsTest, HeadsAreAveragedBySamples) {
  HeadUsage usage;
  usage.Add({});
  usage.Add(HeadSummary(0, 1, 1, 1));  // measured nowhere
  EXPECT_TRUE(usage.empty());
  usage.Add(HeadSummary(30, 0.1, 0.8, 0.5));
  usage.Add(HeadSummary(10, 0.3, 0.6, 0.2));
  ASSERT_EQ(usage.heads().size(), 3u);
  for (const auto& row : usage.heads()) ASSERT_EQ(row.size(), 2u);
  EXPECT_EQ(usage.heads()[1][1].samples, 0u);
  EXPECT_EQ(usage.heads()[0][0].samples, 0u);
  for (const size_t layer : {0, 2}) {
    const HeadUsage::Head& head = usage.heads()[layer][1];
    EXPECT_EQ(head.samples, 40u);
    EXPECT_NEAR(head.read_share, 0.15, 1e-12);
    EXPECT_NEAR(head.kept_mass_mean, 0.75, 1e-12);
    EXPECT_EQ(head.kept_mass_min, 0.2);
    EXPECT_NEAR(head.output_error_mean, 0.25, 1e-12);
    EXPECT_EQ(head.output_error_max, 0.8);
  }
  v1::GenerateEvent::Summary mad = HeadSummary(1, 0, 0, 0);
  mad.mutable_attention()->mutable_heads(0)->set_layer(4'000'000'000u);
  mad.mutable_attention()->mutable_heads(1)->set_kv_head(4'000'000'000u);
  usage.Add(mad);
  EXPECT_EQ(usage.heads().size(), 3u);
}

TEST(EvalResultsTest, NeedlesAreComparedWithTheBaselines) {
  const auto results = [](std::vector<bool> found) {
    std::vector<NeedleResult> list;
    for (const bool f : found) list.push_back({.found = f});
    return list;
  };
  const NeedleScore score = ScoreNeedles(results({true, false, true}), results({true, true, false, true}));
  EXPECT_EQ(score.asked, 3u);
  EXPECT_EQ(score.found, 2u);
  EXPECT_EQ(score.baseline_found, 2u);
  EXPECT_EQ(score.found_where_baseline, 1u);
}

TEST(EvalProgressTest, TheEtaFollowsTheWeights) {
  ManualClock clock;
  std::FILE* out = std::tmpfile();
  EvalProgress progress(out, &clock, 100);
  EXPECT_LT(progress.EtaS(), 0);
  progress.BeginJob("a", 20);
  clock.AdvanceNs(5 * kNsPerS);
  progress.Show(0.5);
  EXPECT_NEAR(progress.EtaS(), 45.0, 1e-6);
  progress.EndJob("ok");
  EXPECT_NEAR(progress.EtaS(), 20.0, 1e-6);
  std::fclose(out);
}

}  // namespace
}  // namespace tributary
