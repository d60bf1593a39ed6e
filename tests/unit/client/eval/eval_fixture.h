// A cluster that answers what an evaluation asks, and a fixture that runs plans on it.
#pragma once

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "client/eval/eval_runner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/byte_text.h"

namespace tributary {

// A cluster that reads the answer out of the prompt, but only in its last `sees` bytes; and that finds every token as
// likely as the next.
class FakeCluster {
 public:
  absl::StatusOr<GenerateResult> Ask(const v1::GenerateRequest& request,
                                     const std::function<void(double)>& on_progress) {
    requests.push_back(request);
    on_progress(0.5);
    if (requests.size() > fail_after || fails.contains(requests.size())) return failure;
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
      const size_t at = said.find(stem);  // what is no question is answered by what follows its last line
      std::string answer(request.max_tokens() - forced.size(), '?');
      if (at + sees >= said.size()) answer = said.substr(at + stem.size(), answer.size());
      answer.resize(request.max_tokens() - forced.size(), '?');
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
    const float loss = requests.size() <= loss_of.size() ? loss_of[requests.size() - 1] : 0;
    result.logprobs.assign(result.tokens.size(), static_cast<float>(std::log(0.25)) - loss);
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
  std::set<size_t> fails;  // requests, from 1 on
  absl::Status failure = absl::UnavailableError("the node has gone");
  std::vector<float> loss_of;  // by request: what is taken off the log-probabilities of the tokens
};

class EvalFixture : public ::testing::Test {
 protected:
  EvalFixture() {
    std::ofstream file(path_, std::ios::binary);
    for (int i = 0; i < 1500; ++i) file << "word" << i << (i % 9 == 0 ? "\n" : " ");
    file.close();
    options_.cluster.model_dir = "m";
    options_.text_files = {path_};
    options_.prefill_tokens = 1000;
    options_.decode_tokens = 20;
    options_.needles = 4;
    options_.queries = 2;
    options_.lengths = {2000};
    options_.depths = {0.0, 1.0};
    options_.window_tokens = {256, 512};
  }
  ~EvalFixture() override { std::filesystem::remove(path_); }

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
    run_.ask = [this](const v1::GenerateRequest& request, const std::function<void(double)>& progress) {
      return cluster_.Ask(request, progress);
    };
    run_.progress_out = progress;
    run_.clock = &clock;
    RunEval(plan, run_, &report);
    progress_text_.resize(static_cast<size_t>(std::ftell(progress)));
    std::rewind(progress);
    EXPECT_EQ(std::fread(progress_text_.data(), 1, progress_text_.size(), progress), progress_text_.size());
    std::fclose(progress);
    return report;
  }

  const std::string path_ = std::filesystem::temp_directory_path() / ("eval_runner_" + std::to_string(getpid()));
  EvalOptions options_;
  FakeCluster cluster_;
  EvalRun run_;  // but for what Run() sets
  std::string progress_text_;
};

}  // namespace tributary
