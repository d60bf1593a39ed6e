// Runs that fail, are interrupted, and go on.
#include <cmath>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/eval/eval_fixture.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

using EvalResumeTest = EvalFixture;

TEST_F(EvalResumeTest, AFailureKeepsWhatWasFound) {
  cluster_.fail_after = 8;  // the perplexity of the second setting is there
  const EvalPlan plan = Plan();
  run_.renew = [](const absl::Status& error) { return error; };
  const EvalReport report = Run(plan);
  EXPECT_EQ(report.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(report.status.message()),
              HasSubstr("dense, window 512: single in 2000 tokens: the node has gone"));
  const auto json = EvalJson(plan, report);
  EXPECT_FALSE(json["complete"]);
  EXPECT_THAT(std::string(json["error"]), HasSubstr("the node has gone"));
  EXPECT_EQ(json["settings"][0]["needles"]["found"], 6);
  EXPECT_FALSE(json["settings"][1]["perplexity"].is_null());
  EXPECT_TRUE(json["settings"][1]["needles"].is_null());
}

TEST_F(EvalResumeTest, AFailedRequestIsSentAgain) {
  run_.retries = 2;
  const EvalPlan plan = Plan();
  // The second and the third request fail: the first attempts of the second job.
  cluster_.fails = {2, 3};
  std::vector<std::string> renewed;
  run_.renew = [&](const absl::Status& error) {
    renewed.emplace_back(error.message());
    return absl::OkStatus();
  };
  const EvalReport report = Run(plan);
  EXPECT_TRUE(report.status.ok()) << report.status;
  EXPECT_EQ(renewed.size(), 2u);
  EXPECT_EQ(cluster_.requests.size(), plan.jobs.size() + 2);
  EXPECT_EQ(report.results[0].questions.size(), 6u);
  EXPECT_TRUE(report.results[0].failures.empty());
}

TEST_F(EvalResumeTest, AJobThatFailsForGoodIsNotedAndTheOthersGoOn) {
  run_.retries = 1;
  const EvalPlan plan = Plan();
  cluster_.fails = {2, 3};  // a question of the baseline
  const EvalReport report = Run(plan);
  EXPECT_EQ(report.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(report.status.message()),
              HasSubstr("1 of 14 jobs failed; the first: dense, window 256: single"));
  ASSERT_EQ(report.results.size(), 2u);
  ASSERT_EQ(report.results[0].failures.size(), 1u);
  EXPECT_EQ(report.results[0].questions.size(), 5u);
  EXPECT_EQ(report.results[1].questions.size(), 6u);
  const auto json = EvalJson(plan, report);
  EXPECT_FALSE(json["complete"]);
  EXPECT_THAT(std::string(json["settings"][0]["failures"][0]["error"]), HasSubstr("the node has gone"));
  // What the baseline did not answer is compared with nothing.
  EXPECT_EQ(json["settings"][1]["needles"]["asked"], 6);
  EXPECT_EQ(json["settings"][1]["needles"]["baseline_found"], 5);
}

TEST_F(EvalResumeTest, WhatCanOnlyFailAgainIsNotSentAgain) {
  run_.retries = 5;
  cluster_.failure = absl::InvalidArgumentError("the prompt is too long");
  cluster_.fails = {2};
  const EvalPlan plan = Plan();
  const EvalReport report = Run(plan);
  EXPECT_EQ(report.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster_.requests.size(), plan.jobs.size());
}

TEST_F(EvalResumeTest, ARunGoesOnWhereItWas) {
  const EvalPlan plan = Plan();
  const EvalReport whole = Run(plan);
  const std::string path = path_ + ".journal";
  const auto open = [&] { return *EvalJournal::Open(path, PlanFingerprint(plan, whole.cluster)); };
  {
    const auto journal = open();
    run_.journal = journal.get();
    run_.renew = [](const absl::Status& error) { return error; };
    cluster_.requests.clear();
    cluster_.fail_after = 9;
    EXPECT_FALSE(Run(plan).status.ok());
  }
  const auto journal = open();
  EXPECT_EQ(journal->num_chains(), 9u);
  run_.journal = journal.get();
  cluster_.requests.clear();
  cluster_.fail_after = 1 << 20;
  const EvalReport resumed = Run(plan);
  EXPECT_TRUE(resumed.status.ok()) << resumed.status;
  EXPECT_EQ(cluster_.requests.size(), plan.jobs.size() - 9);
  EXPECT_EQ(EvalJson(plan, resumed).dump(), EvalJson(plan, whole).dump());
  EvalJournal::Remove(path);
}

TEST_F(EvalResumeTest, AJournalOfAnotherPlanIsRefusedAndADamagedEndForgotten) {
  const EvalPlan plan = Plan();
  const v1::StatusResponse cluster;
  const uint64_t fingerprint = PlanFingerprint(plan, cluster);
  EvalPlan other = plan;
  other.settings[1].window_tokens = 300;
  EXPECT_NE(PlanFingerprint(other, cluster), fingerprint);
  v1::StatusResponse newer;
  newer.set_version("2");
  EXPECT_NE(PlanFingerprint(plan, newer), fingerprint);
  const std::string path = path_ + ".journal";
  GenerateResult answer{.tokens = {1, 2}, .logprobs = {-1.5f, -0.5f}};
  answer.top_logprobs.push_back(cluster_.Alternatives(1, 3));
  answer.summary.set_remote_tokens(77);
  {
    const auto journal = EvalJournal::Open(path, fingerprint);
    ASSERT_TRUE(journal.ok()) << journal.status();
    ASSERT_TRUE((*journal)->Append(4, {answer, answer}).ok());
    ASSERT_TRUE((*journal)->Append(6, {answer}).ok());
  }
  const auto refused = EvalJournal::Open(path, fingerprint + 1);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("--restart"));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 3);
  {
    const auto journal = EvalJournal::Open(path, fingerprint);
    ASSERT_TRUE(journal.ok()) << journal.status();
    EXPECT_TRUE((*journal)->Has(4));
    EXPECT_FALSE((*journal)->Has(6));
    const auto read = (*journal)->Read(4);
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(read->size(), 2u);
    EXPECT_EQ((*read)[1].tokens, answer.tokens);
    EXPECT_EQ((*read)[1].logprobs, answer.logprobs);
    EXPECT_EQ((*read)[1].top_logprobs[0].SerializeAsString(), answer.top_logprobs[0].SerializeAsString());
    EXPECT_EQ((*read)[1].summary.remote_tokens(), 77u);
    EXPECT_EQ((*journal)->Read(6).status().code(), absl::StatusCode::kNotFound);
    ASSERT_TRUE((*journal)->Append(9, {answer}).ok());  // behind what is whole
  }
  EXPECT_TRUE((*EvalJournal::Open(path, fingerprint))->Has(9));
  std::ofstream(path, std::ios::binary) << "something else that is long enough";
  EXPECT_EQ(EvalJournal::Open(path, fingerprint).status().code(), absl::StatusCode::kInvalidArgument);
  EvalJournal::Remove(path);
}

TEST_F(EvalResumeTest, ResultsCanBeSavedAfterEachSetting) {
  const EvalPlan plan = Plan();
  EvalReport report;
  ManualClock clock;
  std::vector<nlohmann::ordered_json> saved;
  run_.ask = [this](const v1::GenerateRequest& request, const std::function<void(double)>& progress) {
    return cluster_.Ask(request, progress);
  };
  run_.progress_out = std::tmpfile();
  run_.clock = &clock;
  run_.on_setting = [&] {
    saved.push_back(EvalJson(plan, report));
    return absl::OkStatus();
  };
  RunEval(plan, run_, &report);
  ASSERT_EQ(saved.size(), 2u);
  EXPECT_FALSE(saved[0]["complete"]);
  EXPECT_TRUE(saved[0]["error"].is_null());
  EXPECT_EQ(saved[0]["settings"].size(), 1u);
  EXPECT_TRUE(saved[1]["complete"]);

  report = {};
  run_.on_setting = [] { return absl::UnavailableError("disk full"); };
  RunEval(plan, run_, &report);
  EXPECT_EQ(report.results.size(), 1u);
  EXPECT_EQ(std::string(report.status.message()), "disk full");
  std::fclose(run_.progress_out);
}

TEST_F(EvalResumeTest, TheCostFollowsWhatWasMeasured) {
  const EvalPlan plan = Plan();
  const auto request = RatesRequest(plan);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->attention_policy().name(), "dense");
  v1::GenerateEvent::Summary summary;
  summary.set_prefill_s(1);
  summary.set_decode_s(3);
  const EvalRates rates = ReadRates(*request, summary);
  v1::GenerateRequest same = *request;
  EXPECT_NEAR(JobCost(same, rates), 1 + 3.0 * same.max_tokens() / (same.max_tokens() - 1), 1e-9);
  const double all = PlanCost(plan, nullptr, rates);
  EXPECT_GT(all, plan.jobs.size() * 1.0);
  const std::string path = path_ + ".journal";
  const auto journal = *EvalJournal::Open(path, 1);
  ASSERT_TRUE(journal->Append(0, {GenerateResult{}}).ok());
  EXPECT_NEAR(PlanCost(plan, journal.get(), rates), all - JobCost(*BuildEvalRequest(plan, plan.jobs[0]), rates), 1e-9);
  EvalJournal::Remove(path);
  EXPECT_EQ(FormatDuration(40), "40 s");
  EXPECT_EQ(FormatDuration(600), "10 min");
  EXPECT_EQ(FormatDuration(7200), "2.0 h");
}

}  // namespace
}  // namespace tributary
