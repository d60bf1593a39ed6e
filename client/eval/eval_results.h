// What an evaluation has found, and how settings compare. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/agreement.h"
#include "client/eval/eval_plan.h"
#include "client/eval/head_usage.h"
#include "client/terminal/report.h"

namespace tributary {

// How much KV the decode steps of one request read. Shares are of tokens, so of KV heads' mean; 1 when dense.
struct KvUsage {
  double context_tokens_mean = 0;  // visible per decode step
  double attended_tokens_mean = 0;
  uint64_t remote_tokens = 0;  // at the end
  double kv_read_share = 1;
  // The share of the remote KV that was read, as the cluster says. Where it does not say it, what was not read is
  // remote (sinks and window are always exact), and the remote part is taken as it was at the end, which is off by what
  // spilled during the answer.
  double remote_read_share = 1;
  // Share of the remote softmax that was kept, over sampled steps, layers and query heads; absent: not measured.
  std::optional<double> kept_mass_mean;
  std::optional<double> kept_mass_min;
  // Of the attention's merged output, over the same; absent likewise.
  std::optional<double> output_error_mean;
  std::optional<double> output_error_p95;
  std::optional<double> output_error_max;
};
// The shares are 1 without a decode step (one token of answer, which the prefill gives).
KvUsage UsageOf(const v1::GenerateEvent::Summary& summary);

struct PerplexityResult {
  size_t text = 0;              // index into EvalPlan::texts
  std::vector<float> logprobs;  // natural log, of each scored token
  // Of each position; empty if not asked for, and once they have been compared: only the baseline keeps them.
  std::vector<TokenDistribution> distributions;
  std::optional<Agreement> agreement;  // with the baseline; absent if that has failed
  double nll_mean = 0;
  double perplexity = 0;
  KvUsage usage;
  HeadUsage heads;
  double prefill_s = 0;
  double decode_s = 0;
};

// What dense generates behind a text, fed through a setting: whether what is lost adds up.
struct DriftResult {
  static constexpr size_t kPartTokens = 1000;

  std::vector<uint32_t> tokens;
  PerplexityResult scored;       // of all tokens
  std::vector<Agreement> parts;  // of each kPartTokens; the last may be shorter
};

struct QuestionResult {
  size_t question = 0;  // index into EvalPlan::questions
  std::string answer;   // what the model said
  double score = 0;     // the share of what was asked for that is right (ScoreAnswer)
  bool found = false;   // all of it
  KvUsage usage;
};

struct JobFailure {
  std::string job;
  std::string error;
};

struct SettingResult {
  // Of each text; and of all together, once all are there: positions one behind the other, usage as means.
  std::vector<PerplexityResult> texts;
  std::optional<PerplexityResult> perplexity;
  HeadUsage text_heads;  // over all texts
  std::optional<DriftResult> drift;
  std::vector<QuestionResult> questions;  // in the order of the plan; those that failed are missing
  HeadUsage question_heads;               // over all questions
  std::vector<JobFailure> failures;
};

// INTERNAL if the cluster answered with other tokens or counts than were asked for; for the questions, errors of
// decoding too.
absl::StatusOr<PerplexityResult> ReadPerplexity(const EvalPlan& plan, const GenerateResult& result);
absl::StatusOr<DriftResult> ReadDrift(const EvalPlan& plan, const GenerateResult& result);
absl::StatusOr<QuestionResult> ReadQuestion(const EvalPlan& plan, size_t question, const GenerateResult& result);

// Compares with the baseline (null: there is none), and lets go of the distributions unless this is the baseline.
void CompareWith(const PerplexityResult* baseline, uint32_t vocab_size, PerplexityResult& result);
void CompareWith(const DriftResult* baseline, uint32_t vocab_size, DriftResult& result);

// Several texts as one, but for heads. Is compared if all of them are. REQUIRES: at least one.
PerplexityResult Pool(std::span<const PerplexityResult> results);

struct TaskScore {
  size_t asked = 0;
  size_t found = 0;
  size_t baseline_found = 0;        // of the questions asked here
  size_t found_where_baseline = 0;  // of those, found here too
  double score_mean = 0;
  double baseline_score_mean = 0;
  double remote_read_share_mean = 1;
  // These are taken over the questions where it was measured.
  std::optional<double> kept_mass_mean;
  std::optional<double> kept_mass_min;
  std::optional<double> output_error_mean;
  std::optional<double> output_error_max;
};
// Of those results whose question is among `asked` (indices into EvalPlan::questions); null: of all. Questions that
// the baseline has not answered do not count for it.
TaskScore ScoreQuestions(std::span<const QuestionResult> results, std::span<const QuestionResult> baseline,
                         const std::vector<bool>* asked = nullptr);

}  // namespace tributary
