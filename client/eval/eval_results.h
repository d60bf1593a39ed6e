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
  std::vector<float> logprobs;                   // natural log, of each scored token
  std::vector<TokenDistribution> distributions;  // of each position; empty if not asked for
  double nll_mean = 0;
  double perplexity = 0;
  KvUsage usage;
  HeadUsage heads;
  double prefill_s = 0;
  double decode_s = 0;
};

struct NeedleResult {
  size_t question = 0;  // index into EvalPlan::questions
  std::string answer;   // what the model said
  bool found = false;   // byte for byte what was planted
  KvUsage usage;
};

struct SettingResult {
  std::optional<PerplexityResult> perplexity;
  std::vector<NeedleResult> needles;
  HeadUsage needle_heads;  // over all questions
};

// INTERNAL if the cluster answered with other tokens or counts than were asked for.
absl::StatusOr<PerplexityResult> ReadPerplexity(const EvalPlan& plan, const GenerateResult& result);
absl::StatusOr<NeedleResult> ReadNeedle(const EvalPlan& plan, size_t question, const GenerateResult& result);

struct NeedleScore {
  size_t asked = 0;
  size_t found = 0;
  size_t baseline_found = 0;        // of the questions asked here
  size_t found_where_baseline = 0;  // of those, found here too
  double remote_read_share_mean = 1;
  // These are taken over the questions where it was measured.
  std::optional<double> kept_mass_mean;
  std::optional<double> kept_mass_min;
  std::optional<double> output_error_mean;
  std::optional<double> output_error_max;
};
// Results of the same questions in the same order; a setting that was cut short has fewer.
NeedleScore ScoreNeedles(std::span<const NeedleResult> results, std::span<const NeedleResult> baseline);

}  // namespace tributary
