#include "client/eval/agreement.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Log-probabilities come as f32, so what is left of a sum of them is known to about this much. It is added to what is
// left of q, so that the result stays a lower bound.
constexpr double kRestError = 1e-6;

double Term(double p, double log_p, double log_q) {
  if (p <= 0) return 0;
  return p * (log_p - log_q);
}

}  // namespace

absl::StatusOr<TokenDistribution> DistributionFromProto(const v1::TopLogprobs& top) {
  if (top.tokens_size() == 0 || top.tokens_size() != top.logprobs_size()) {
    return absl::InvalidArgumentError(
        fmt::format("{} tokens with {} log-probabilities", top.tokens_size(), top.logprobs_size()));
  }
  TokenDistribution distribution{.logprobs = {}, .likeliest = top.tokens(0)};
  for (int i = 0; i < top.tokens_size(); ++i) {
    // f32 may round a certainty to a little above 0.
    if (!(top.logprobs(i) <= 1e-5f)) {
      return absl::InvalidArgumentError(
          fmt::format("the log-probability of token {} is {}", top.tokens(i), top.logprobs(i)));
    }
    distribution.logprobs.emplace_back(top.tokens(i), top.logprobs(i));
  }
  auto& logprobs = distribution.logprobs;
  std::sort(logprobs.begin(), logprobs.end());
  const auto twice = std::adjacent_find(logprobs.begin(), logprobs.end(),
                                        [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != logprobs.end()) {
    return absl::InvalidArgumentError(fmt::format("token {} comes twice", twice->first));
  }
  return distribution;
}

Divergence KlDivergence(const TokenDistribution& p, const TokenDistribution& q, uint32_t vocab_size) {
  Divergence divergence;
  double p_common = 0;
  double q_common = 0;
  size_t num_common = 0;
  for (auto a = p.logprobs.begin(), b = q.logprobs.begin(); a != p.logprobs.end() && b != q.logprobs.end();) {
    if (a->first != b->first) {
      ++(a->first < b->first ? a : b);
      continue;
    }
    const double probability = std::exp(double{a->second});
    divergence.kl += Term(probability, a->second, b->second);
    p_common += probability;
    q_common += std::exp(double{b->second});
    ++num_common, ++a, ++b;
  }
  divergence.is_exact = vocab_size != 0 && num_common == vocab_size;
  if (divergence.is_exact) return divergence;
  const double p_rest = std::max(1 - p_common, 0.0);
  const double q_rest = std::max(1 - q_common, 0.0) + kRestError;
  divergence.kl += Term(p_rest, std::log(p_rest), std::log(q_rest));
  divergence.kl = std::max(divergence.kl, 0.0);
  return divergence;
}

Agreement Compare(const ScoredPositions& positions, const ScoredPositions& baseline, uint32_t vocab_size) {
  TRIBUTARY_CHECK_EQ(positions.logprobs.size(), baseline.logprobs.size());
  Agreement agreement{.positions = positions.logprobs.size()};
  const auto count = static_cast<double>(agreement.positions);
  for (size_t i = 0; i < agreement.positions; ++i) {
    const double difference = std::abs(double{positions.logprobs[i]} - baseline.logprobs[i]);
    agreement.logprob_abs_diff_mean += difference / count;
    agreement.logprob_abs_diff_max = std::max(agreement.logprob_abs_diff_max, difference);
  }
  if (positions.distributions.empty() || baseline.distributions.empty()) return agreement;
  TRIBUTARY_CHECK_EQ(positions.distributions.size(), agreement.positions);
  TRIBUTARY_CHECK_EQ(baseline.distributions.size(), agreement.positions);
  size_t num_same = 0;
  agreement.kl_max = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < agreement.positions; ++i) {
    const TokenDistribution& dense = baseline.distributions[i];
    const TokenDistribution& other = positions.distributions[i];
    const Divergence divergence = KlDivergence(dense, other, vocab_size);
    agreement.kl.push_back(divergence.kl);
    agreement.kl_mean += divergence.kl / count;
    agreement.kl_max = std::max(agreement.kl_max, divergence.kl);
    agreement.kl_is_exact &= divergence.is_exact;
    num_same += dense.likeliest == other.likeliest ? 1 : 0;
  }
  agreement.top1_agreement = static_cast<double>(num_same) / count;
  return agreement;
}

}  // namespace tributary
