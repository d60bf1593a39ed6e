// Several texts, and drift.
#include <cmath>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/eval/eval_fixture.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using EvalTextsTest = EvalFixture;

TEST_F(EvalTextsTest, SeveralTextsAreScoredEachAndTogether) {
  options_.needles = 0;
  options_.lengths.clear();
  const std::string second = path_ + "_second";
  std::ofstream(second, std::ios::binary) << std::string(2000, 'x');
  options_.text_files = {path_, second};
  const EvalPlan plan = Plan();
  ASSERT_EQ(plan.jobs.size(), 2 * 2u);
  // The second setting finds the second text less likely than the first setting does.
  cluster_.loss_of = {0, 0, 0, 1};
  const EvalReport report = Run(plan);
  ASSERT_TRUE(report.status.ok()) << report.status;
  const auto json = EvalJson(plan, report);
  const auto& perplexity = json["settings"][1]["perplexity"];
  ASSERT_EQ(perplexity["texts"].size(), 2u);
  EXPECT_EQ(perplexity["texts"][1]["text"], second);
  EXPECT_NEAR(perplexity["texts"][0]["perplexity_ratio"], 1, 1e-6);
  EXPECT_NEAR(perplexity["texts"][1]["perplexity_ratio"], std::exp(1), 1e-5);
  EXPECT_NEAR(perplexity["perplexity_ratio"], std::exp(0.5), 1e-5);  // over the positions of both
  EXPECT_NEAR(perplexity["perplexity_ratio_worst"], std::exp(1), 1e-5);
  EXPECT_EQ(perplexity["logprobs"].size(), 40u);
  EXPECT_EQ(perplexity["kl"].size(), 40u);
  EXPECT_FALSE(json["settings"][0]["perplexity"].contains("kl_mean_worst") &&
               json["settings"][0]["perplexity"]["kl_mean_worst"] != 0);
  std::filesystem::remove(second);
}

TEST_F(EvalTextsTest, DriftGoesThroughWhatDenseGenerates) {
  options_.needles = 0;
  options_.lengths.clear();
  options_.decode_tokens = 0;
  options_.drift_tokens = 1500;
  const EvalPlan plan = Plan();
  ASSERT_EQ(plan.jobs.size(), 2u);
  const EvalReport report = Run(plan);
  ASSERT_TRUE(report.status.ok()) << report.status;
  EXPECT_EQ(cluster_.requests[0].forced_tokens_size(), 0);
  ASSERT_EQ(cluster_.requests[1].forced_tokens_size(), 1500);
  EXPECT_EQ(cluster_.requests[1].forced_tokens(7), report.results[0].drift->tokens[7]);
  const auto json = EvalJson(plan, report);
  const auto& drift = json["settings"][1]["drift"];
  EXPECT_EQ(drift["tokens"], 1500);
  ASSERT_EQ(drift["parts"].size(), 2u);
  EXPECT_EQ(drift["parts"][1]["begin"], 1000);
  EXPECT_EQ(drift["parts"][1]["end"], 1500);
  EXPECT_EQ(drift["parts"][1]["kl_max"], 0.0);
  EXPECT_EQ(drift["parts"][1]["top1_agreement"], 1.0);
  EXPECT_TRUE(json["settings"][1]["perplexity"].is_null());
}

TEST_F(EvalTextsTest, WithoutDensesTokensThereIsNoDrift) {
  options_.needles = 0;
  options_.lengths.clear();
  options_.drift_tokens = 100;
  cluster_.fails = {2};
  const EvalReport report = Run(Plan());
  EXPECT_EQ(report.results[0].failures.size(), 1u);
  ASSERT_EQ(report.results[1].failures.size(), 1u);
  EXPECT_THAT(report.results[1].failures[0].error, HasSubstr("the baseline has failed"));
  EXPECT_TRUE(report.results[1].perplexity.has_value());
}

TEST_F(EvalTextsTest, TheContextOfTheModelCapsTheDrift) {
  const std::string folder = path_ + "_model";
  std::filesystem::create_directory(folder);
  std::ofstream(folder + "/config.json") << R"({"max_position_embeddings": 1200})";
  options_.cluster.model_dir = folder;
  options_.drift_tokens = 8000;
  options_.lengths = {1100};
  EXPECT_EQ(Plan().drift_tokens, 200u);
  EXPECT_THAT(Plan().notes, ElementsAre(HasSubstr("drift: 200 tokens instead of 8000")));
  options_.lengths = {1900};
  EXPECT_THAT(Plan().notes[0], HasSubstr("1900 tokens are asked for, and the model's context has 1200"));
  options_.prefill_tokens = 1200;
  EXPECT_THAT(std::string(MakeEvalPlan(options_).status().message()), HasSubstr("none is left for --drift-tokens"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace tributary
