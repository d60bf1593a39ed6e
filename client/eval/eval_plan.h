// Makes a list of jobs, one request each, out of the options. Everything is pure but for reading the texts and turning
// them into tokens. The same questions are asked in every setting.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/eval_options.h"
#include "client/eval/task.h"
#include "client/text/text_codec.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

struct EvalText {
  std::string name;              // its file
  std::vector<uint32_t> tokens;  // prefill_tokens + decode_tokens
};

struct EvalQuestion {
  TaskSpec spec;
  TaskPrompt prompt;
  // With --turns, it is appended to the sequence of the question before it, and that of this one stays for the next.
  bool continues = false;
  bool is_continued = false;
};

enum class EvalJobKind { kPerplexity, kDrift, kQuestion };

struct EvalJob {
  size_t setting = 0;
  EvalJobKind kind = EvalJobKind::kPerplexity;
  size_t index = 0;  // into EvalPlan::texts or questions
};

struct EvalPlan {
  EvalOptions options;
  std::vector<EvalSetting> settings;
  std::shared_ptr<TextCodec> codec;  // null: the texts are token ids
  std::vector<EvalText> texts;
  uint32_t drift_tokens = 0;  // as asked for, at most what the model's context holds
  uint32_t vocab_size = 0;    // from here: of texts and drift, set once the model is known
  uint32_t top_logprobs = 0;
  std::vector<EvalQuestion> questions;
  std::vector<EvalJob> jobs;  // setting by setting; questions that continue stand behind the one that they continue
  std::vector<std::string> notes;  // what the user should know, such as a cap
};

// `codec` is used for the plan's life; null with token files. NOT_FOUND or INVALID_ARGUMENT: a text cannot be read, or
// is too short for what is asked.
absl::StatusOr<EvalPlan> MakeEvalPlan(const EvalOptions& options, std::shared_ptr<TextCodec> codec);
// The same with the codec that the options say. Errors as of MakeTextCodec() too.
absl::StatusOr<EvalPlan> MakeEvalPlan(const EvalOptions& options);

// Is called before any request is built. INVALID_ARGUMENT if the plan's tokens are not the model's, or if a setting
// names layers or heads that the model has not. Decides how many alternatives are asked for: what the options say, at
// most the vocabulary; by default all of a byte vocabulary, which makes the KL divergence exact, else
// kDefaultTopLogprobs.
inline constexpr uint32_t kDefaultTopLogprobs = 64;
absl::Status FitToModel(const v1::ModelGeometry& geometry, EvalPlan* plan);

// `drift`: what dense generated, empty for dense itself. A question that continues has no continue_request_id yet: the
// answer before it says which.
absl::StatusOr<v1::GenerateRequest> BuildEvalRequest(const EvalPlan& plan, const EvalJob& job,
                                                     std::span<const uint32_t> drift = {});

// The jobs from `first` on that must run on one sequence, one after the other: one job, or a question with those that
// continue it. Returns the index behind the last.
size_t EndOfChain(const EvalPlan& plan, size_t first);

// About how long a request takes, in units of one short prefill token: for progress and ETA.
double JobWeight(const v1::GenerateRequest& request);

}  // namespace tributary
