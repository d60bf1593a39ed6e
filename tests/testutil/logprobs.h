// Log-probabilities of a whole vocabulary, for comparing two answers: adding a number to all logits changes none.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "base/check.h"

namespace tributary {

inline std::vector<double> LogSoftmax(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  const double lse_ln = max + std::log(sum);
  std::vector<double> logprobs(logits.begin(), logits.end());
  for (double& logprob : logprobs) logprob -= lse_ln;
  return logprobs;
}

// Infinite if any of them is not finite.
inline double MaxLogprobDifference(std::span<const float> logits, std::span<const float> expected) {
  TRIBUTARY_CHECK_EQ(logits.size(), expected.size());
  const std::vector<double> a = LogSoftmax(logits), b = LogSoftmax(expected);
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(a[i] - b[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

}  // namespace tributary
