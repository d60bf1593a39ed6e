#include "client/eval/eval_results.h"

#include <algorithm>
#include <cmath>

#include "base/status.h"
#include "fmt/format.h"

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

namespace {

absl::StatusOr<PerplexityResult> ReadScored(const EvalPlan& plan, size_t num_tokens, const GenerateResult& result) {
  TRIBUTARY_RETURN_IF_ERROR(CheckAnswer(result, num_tokens));
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

template <typename T>
std::span<const T> Part(const std::vector<T>& values, size_t begin, size_t count) {
  return values.empty() ? std::span<const T>() : std::span(values).subspan(begin, count);
}

// The mean of what both have; the less of minima.
void AddUsage(const KvUsage& usage, double share, KvUsage& mean) {
  mean.context_tokens_mean += share * usage.context_tokens_mean;
  mean.attended_tokens_mean += share * usage.attended_tokens_mean;
  mean.remote_tokens = std::max(mean.remote_tokens, usage.remote_tokens);
  mean.kv_read_share += share * usage.kv_read_share;
  mean.remote_read_share += share * usage.remote_read_share;
  if (!usage.kept_mass_mean.has_value()) return;
  mean.kept_mass_mean = mean.kept_mass_mean.value_or(0) + share * *usage.kept_mass_mean;
  mean.kept_mass_min = std::min(mean.kept_mass_min.value_or(1), *usage.kept_mass_min);
  mean.output_error_mean = mean.output_error_mean.value_or(0) + share * *usage.output_error_mean;
  mean.output_error_p95 = mean.output_error_p95.value_or(0) + share * *usage.output_error_p95;
  mean.output_error_max = std::max(mean.output_error_max.value_or(0), *usage.output_error_max);
}

void AddAgreement(const Agreement& agreement, double share, Agreement& all) {
  all.positions += agreement.positions;
  all.logprob_abs_diff_mean += share * agreement.logprob_abs_diff_mean;
  all.logprob_abs_diff_max = std::max(all.logprob_abs_diff_max, agreement.logprob_abs_diff_max);
  all.kl.insert(all.kl.end(), agreement.kl.begin(), agreement.kl.end());
  all.kl_mean += share * agreement.kl_mean;
  all.kl_max = std::max(all.kl_max, agreement.kl_max);
  all.kl_is_exact &= agreement.kl_is_exact;
  all.top1_agreement += share * agreement.top1_agreement;
}

}  // namespace

absl::StatusOr<PerplexityResult> ReadPerplexity(const EvalPlan& plan, const GenerateResult& result) {
  return ReadScored(plan, plan.options.decode_tokens, result);
}

absl::StatusOr<DriftResult> ReadDrift(const EvalPlan& plan, const GenerateResult& result) {
  DriftResult read{.tokens = result.tokens};
  TRIBUTARY_ASSIGN_OR_RETURN(read.scored, ReadScored(plan, plan.drift_tokens, result));
  return read;
}

absl::StatusOr<QuestionResult> ReadQuestion(const EvalPlan& plan, size_t question, const GenerateResult& result) {
  const TaskPrompt& prompt = plan.questions[question].prompt;
  const size_t skipped = plan.options.decode_question ? prompt.question_tokens.size() : 0;
  TRIBUTARY_RETURN_IF_ERROR(CheckAnswer(result, skipped + prompt.max_answer_tokens));
  QuestionResult read;
  read.question = question;
  TRIBUTARY_ASSIGN_OR_RETURN(read.answer, plan.codec->Decode(std::span(result.tokens).subspan(skipped)));
  read.score = ScoreAnswer(prompt, read.answer);
  read.found = read.score == 1;
  read.usage = UsageOf(result.summary);
  return read;
}

void CompareWith(const PerplexityResult* baseline, uint32_t vocab_size, PerplexityResult& result) {
  if (baseline != nullptr) {
    result.agreement =
        Compare({result.logprobs, result.distributions}, {baseline->logprobs, baseline->distributions}, vocab_size);
  }
  if (baseline != &result) result.distributions = {};
}

void CompareWith(const DriftResult* baseline, uint32_t vocab_size, DriftResult& result) {
  const PerplexityResult& scored = result.scored;
  for (size_t begin = 0; baseline != nullptr && begin < scored.logprobs.size(); begin += DriftResult::kPartTokens) {
    const size_t count = std::min(DriftResult::kPartTokens, scored.logprobs.size() - begin);
    const auto part = [begin, count](const PerplexityResult& of) {
      return ScoredPositions{Part(of.logprobs, begin, count), Part(of.distributions, begin, count)};
    };
    result.parts.push_back(Compare(part(scored), part(baseline->scored), vocab_size));
  }
  CompareWith(baseline == nullptr ? nullptr : &baseline->scored, vocab_size, result.scored);
}

PerplexityResult Pool(std::span<const PerplexityResult> results) {
  if (results.size() == 1) {
    PerplexityResult alone = results[0];
    alone.distributions = {};
    return alone;
  }
  PerplexityResult pooled;
  pooled.usage.kv_read_share = 0;  // a sum from here on, as all shares
  pooled.usage.remote_read_share = 0;
  const double share = 1.0 / static_cast<double>(results.size());  // texts have equally many positions
  bool compared = true;
  for (const PerplexityResult& result : results) {
    pooled.logprobs.insert(pooled.logprobs.end(), result.logprobs.begin(), result.logprobs.end());
    pooled.nll_mean += share * result.nll_mean;
    AddUsage(result.usage, share, pooled.usage);
    pooled.prefill_s += result.prefill_s;
    pooled.decode_s += result.decode_s;
    compared &= result.agreement.has_value();
  }
  pooled.perplexity = std::exp(pooled.nll_mean);
  if (!compared) return pooled;
  pooled.agreement.emplace();
  for (const PerplexityResult& result : results) AddAgreement(*result.agreement, share, *pooled.agreement);
  return pooled;
}

TaskScore ScoreQuestions(std::span<const QuestionResult> results, std::span<const QuestionResult> baseline,
                         const std::vector<bool>* asked) {
  TaskScore score;
  double read = 0;
  double kept = 0;
  double error = 0;
  size_t num_measured = 0;
  size_t num_baseline = 0;
  for (const QuestionResult& result : results) {
    if (asked != nullptr && !(*asked)[result.question]) continue;
    ++score.asked;
    score.found += result.found ? 1 : 0;
    score.score_mean += result.score;
    const KvUsage& usage = result.usage;
    read += usage.remote_read_share;
    if (usage.kept_mass_mean.has_value()) {
      kept += *usage.kept_mass_mean;
      ++num_measured;
      score.kept_mass_min = std::min(score.kept_mass_min.value_or(1), *usage.kept_mass_min);
      error += *usage.output_error_mean;
      score.output_error_max = std::max(score.output_error_max.value_or(0), *usage.output_error_max);
    }
    const auto dense = std::find_if(baseline.begin(), baseline.end(),
                                    [&](const QuestionResult& other) { return other.question == result.question; });
    if (dense == baseline.end()) continue;
    ++num_baseline;
    score.baseline_score_mean += dense->score;
    if (!dense->found) continue;
    ++score.baseline_found;
    score.found_where_baseline += result.found ? 1 : 0;
  }
  if (score.asked == 0) return score;
  score.score_mean /= static_cast<double>(score.asked);
  if (num_baseline > 0) score.baseline_score_mean /= static_cast<double>(num_baseline);
  score.remote_read_share_mean = read / static_cast<double>(score.asked);
  if (num_measured > 0) score.kept_mass_mean = kept / static_cast<double>(num_measured);
  if (num_measured > 0) score.output_error_mean = error / static_cast<double>(num_measured);
  return score;
}

}  // namespace tributary
