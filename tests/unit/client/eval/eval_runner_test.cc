#include "client/eval/eval_runner.h"

#include <cmath>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/byte_text.h"
#include "proto/convert_policy.h"
#include "tests/unit/client/eval/eval_fixture.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

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

using EvalRunnerTest = EvalFixture;

TEST_F(EvalRunnerTest, RunsEverySettingOnTheSameQuestions) {
  const EvalPlan plan = Plan();
  // Per setting: one perplexity, 2 single, 2 multi-key, 2 multi-query.
  ASSERT_EQ(plan.jobs.size(), 2 * 7u);
  const EvalReport report = Run(plan);
  ASSERT_TRUE(report.status.ok()) << report.status;
  ASSERT_EQ(report.results.size(), 2u);
  for (const SettingResult& result : report.results) {
    EXPECT_NEAR(result.perplexity->perplexity, 4.0, 1e-5);
    EXPECT_EQ(result.questions.size(), 6u);
    for (const QuestionResult& needle : result.questions) EXPECT_TRUE(needle.found);
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
  EXPECT_THAT(progress_text_, HasSubstr("[100 %, 0 s left] dense, window 512: multi-query in 2000"));
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
  EXPECT_EQ(plan.texts[0].tokens[1000], request.forced_tokens(0));
}

TEST_F(EvalRunnerTest, WhatTheClusterDoesNotSeeIsMissed) {
  options_.decode_tokens = 0;
  options_.tasks = {"single"};
  options_.window_tokens = {256};
  cluster_.sees = 500;
  const EvalPlan plan = Plan();
  const EvalReport report = Run(plan);
  ASSERT_TRUE(report.status.ok()) << report.status;
  ASSERT_EQ(report.results[0].questions.size(), 2u);
  EXPECT_FALSE(report.results[0].questions[0].found);  // depth 0
  EXPECT_TRUE(report.results[0].questions[1].found);   // depth 1
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
  for (const QuestionResult& needle : report.results[0].questions) EXPECT_TRUE(needle.found);
  const v1::GenerateRequest& request = cluster_.requests[0];
  EXPECT_EQ(request.forced_tokens_size() + 7, static_cast<int>(request.max_tokens()));
  EXPECT_EQ(request.forced_tokens(0), static_cast<uint32_t>('\n'));
}

TEST_F(EvalRunnerTest, QuestionsCanBeTurnsOfOneSequence) {
  options_.decode_tokens = 0;
  options_.tasks = {"multi-query"};
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
    EXPECT_TRUE(report.results[0].questions[i].found);
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
  EXPECT_EQ(fresh.results[0].questions[3].answer, report.results[0].questions[3].answer);

  cluster_.keeps = false;
  const EvalReport lost = Run(plan);
  EXPECT_EQ(lost.status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(lost.status.message()), HasSubstr("did not keep the sequence"));
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
  options_.text_files = {"/nonexistent/text"};
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
  options_.text_tokens_files = {path_};
  options_.text_files.clear();
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
    std::vector<QuestionResult> list;
    for (const bool f : found) list.push_back({.question = list.size(), .score = f ? 1.0 : 0.0, .found = f});
    return list;
  };
  const TaskScore score = ScoreQuestions(results({true, false, true}), results({true, true, false, true}));
  EXPECT_EQ(score.asked, 3u);
  EXPECT_EQ(score.found, 2u);
  EXPECT_EQ(score.baseline_found, 2u);
  EXPECT_EQ(score.found_where_baseline, 1u);
  EXPECT_NEAR(score.score_mean, 2.0 / 3, 1e-12);
  EXPECT_NEAR(score.baseline_score_mean, 2.0 / 3, 1e-12);
  const std::vector<bool> last{false, false, true};
  EXPECT_EQ(ScoreQuestions(results({true, false, true}), results({true, true, false}), &last).asked, 1u);
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
