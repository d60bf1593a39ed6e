// Makes a list of jobs, one request each, out of the options. Everything is pure but for reading the text. The same
// questions are asked in every setting.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/eval_options.h"
#include "client/eval/needle_prompt.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

struct EvalQuestion {
  NeedleSpec spec;
  NeedlePrompt prompt;
  // With --turns, it is appended to the sequence of the question before it, and that of this one stays for the next.
  bool continues = false;
  bool is_continued = false;
};

struct EvalJob {
  static constexpr size_t kPerplexity = ~size_t{0};

  size_t setting = 0;
  size_t question = kPerplexity;  // index into EvalPlan::questions, or kPerplexity
};

struct EvalPlan {
  EvalOptions options;
  std::vector<EvalSetting> settings;
  bool is_byte_text = false;
  std::vector<uint32_t> text_tokens;  // of the perplexity: prefill_tokens + decode_tokens
  // These are of the perplexity, and set once the model is known.
  uint32_t vocab_size = 0;
  uint32_t top_logprobs = 0;
  std::vector<EvalQuestion> questions;
  std::vector<EvalJob> jobs;  // setting by setting
};

// NOT_FOUND or INVALID_ARGUMENT: the text cannot be read, or is too short for what is asked.
absl::StatusOr<EvalPlan> MakeEvalPlan(const EvalOptions& options);

// Is called before any request is built. INVALID_ARGUMENT if the plan's text is bytes and the model's tokens are not,
// or if a setting names layers or heads that the model has not. Decides how many alternatives are asked for: what the
// options say, at most the vocabulary; by default all of a byte vocabulary, which makes the KL divergence exact, else
// kDefaultTopLogprobs.
inline constexpr uint32_t kDefaultTopLogprobs = 64;
absl::Status FitToModel(const v1::ModelGeometry& geometry, EvalPlan* plan);

// A question that continues has no continue_request_id yet: the answer before it says which.
absl::StatusOr<v1::GenerateRequest> BuildEvalRequest(const EvalPlan& plan, const EvalJob& job);

// About how long a request takes, in units of one short prefill token: for progress and ETA.
double JobWeight(const v1::GenerateRequest& request);

}  // namespace tributary
