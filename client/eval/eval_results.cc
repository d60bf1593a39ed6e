#include "client/eval/eval_results.h"

#include <algorithm>
#include <cmath>

#include "base/status.h"
#include "fmt/format.h"
#include "model/byte_text.h"

namespace tributary {
namespace {

absl::Status CheckAnswer(const GenerateResult& result, size_t num_tokens) {
  if (result.tokens.size() == num_tokens && result.logprobs.size() == num_tokens) {
    return absl::OkStatus();
  }
  return absl::InternalError(
      fmt::format("the cluster answered {} tokens and {} log-probabilities where {} were asked for",
                  result.tokens.size(), result.logprobs.size(), num_tokens));
}

absl::StatusOr<std::vector<TokenDistribution>> ReadDistributions(const EvalPlan& plan, const GenerateResult& result) {
  const size_t asked = plan.top_logprobs == 0 ? 0 : result.tokens.size();
  if (result.top_logprobs.size() != asked) {
    return absl::InternalError(
        fmt::format("the cluster answered alternatives to {} tokens where {} were asked for; is "
                    "it of the same release?",
                    result.top_logprobs.size(), asked));
  }
  std::vector<TokenDistribution> distributions;
  for (size_t i = 0; i < asked; ++i) {
    const auto distribution = DistributionFromProto(result.top_logprobs[i]);
    const std::string error(distribution.status().message());
    const int count = result.top_logprobs[i].tokens_size();
    if (!distribution.ok() || count != static_cast<int>(plan.top_logprobs)) {
      return absl::InternalError(
          fmt::format("the cluster answered {} alternatives to token {} where {} were asked for{}", count, i,
                      plan.top_logprobs, error.empty() ? "" : ": " + error));
    }
    distributions.push_back(*distribution);
  }
  return distributions;
}

}  // namespace

KvUsage UsageOf(const v1::GenerateEvent::Summary& summary) {
  KvUsage usage;
  usage.remote_tokens = summary.remote_tokens();
  usage.attended_tokens_mean = summary.attended_tokens_mean();
  // What was there before the answer: the prompt, and earlier turns.
  usage.context_tokens_mean = static_cast<double>(summary.context_tokens()) - summary.generated_tokens();
  if (summary.generated_tokens() < 2) return usage;
  // The first token comes from the prefill; step i of the others sees what was there and i tokens.
  usage.context_tokens_mean += summary.generated_tokens() / 2.0;
  const double unread = std::max(0.0, usage.context_tokens_mean - summary.attended_tokens_mean());
  usage.kv_read_share = 1 - unread / usage.context_tokens_mean;
  if (summary.has_attention()) {
    usage.remote_read_share = summary.attention().remote_read_share();
    if (summary.attention().samples() > 0) {
      usage.kept_mass_mean = summary.attention().kept_mass_mean();
      usage.kept_mass_min = summary.attention().kept_mass_min();
      usage.output_error_mean = summary.attention().output_error_mean();
      usage.output_error_p95 = summary.attention().output_error_p95();
      usage.output_error_max = summary.attention().output_error_max();
    }
  } else if (summary.remote_tokens() > 0) {
    usage.remote_read_share = std::max(0.0, 1 - unread / static_cast<double>(summary.remote_tokens()));
  }
  return usage;
}

absl::StatusOr<PerplexityResult> ReadPerplexity(const EvalPlan& plan, const GenerateResult& result) {
  if (absl::Status status = CheckAnswer(result, plan.options.decode_tokens); !status.ok()) {
    return status;
  }
  PerplexityResult read;
  read.logprobs = result.logprobs;
  TRIBUTARY_ASSIGN_OR_RETURN(read.distributions, ReadDistributions(plan, result));
  read.nll_mean = MeanNll(result);
  read.perplexity = std::exp(read.nll_mean);
  read.usage = UsageOf(result.summary);
  read.heads.Add(result.summary);
  read.prefill_s = result.summary.prefill_s();
  read.decode_s = result.summary.decode_s();
  return read;
}

absl::StatusOr<NeedleResult> ReadNeedle(const EvalPlan& plan, size_t question, const GenerateResult& result) {
  const NeedlePrompt& prompt = plan.questions[question].prompt;
  const size_t skipped = plan.options.decode_question ? prompt.question.size() : 0;
  if (absl::Status status = CheckAnswer(result, skipped + prompt.answer.size()); !status.ok()) {
    return status;
  }
  NeedleResult read;
  read.question = question;
  read.answer = BytesFromTokens(std::span(result.tokens).subspan(skipped));
  read.found = read.answer == prompt.answer;
  read.usage = UsageOf(result.summary);
  return read;
}

NeedleScore ScoreNeedles(std::span<const NeedleResult> results, std::span<const NeedleResult> baseline) {
  NeedleScore score{.asked = results.size()};
  if (results.empty()) return score;
  double read = 0;
  double kept = 0;
  double error = 0;
  size_t num_measured = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    score.found += results[i].found ? 1 : 0;
    const KvUsage& usage = results[i].usage;
    read += usage.remote_read_share;
    if (usage.kept_mass_mean.has_value()) {
      kept += *usage.kept_mass_mean;
      ++num_measured;
      score.kept_mass_min = std::min(score.kept_mass_min.value_or(1), *usage.kept_mass_min);
      error += *usage.output_error_mean;
      score.output_error_max = std::max(score.output_error_max.value_or(0), *usage.output_error_max);
    }
    if (i >= baseline.size() || !baseline[i].found) continue;
    ++score.baseline_found;
    score.found_where_baseline += results[i].found ? 1 : 0;
  }
  score.remote_read_share_mean = read / static_cast<double>(results.size());
  if (num_measured > 0) score.kept_mass_mean = kept / static_cast<double>(num_measured);
  if (num_measured > 0) score.output_error_mean = error / static_cast<double>(num_measured);
  return score;
}

}  // namespace tributary
