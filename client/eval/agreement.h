// How far a policy's next-token distributions are from dense's, position by position on the same forced tokens. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

// What a reply says of one position: the likeliest tokens and what they were given, or all of the vocabulary.
struct TokenDistribution {
  std::vector<std::pair<uint32_t, float>> logprobs;  // natural log, by ascending token
  uint32_t likeliest = 0;
};

// INVALID_ARGUMENT: empty, a token twice, more tokens than log-probabilities or fewer, a log-probability that is NaN or
// positive.
absl::StatusOr<TokenDistribution> DistributionFromProto(const v1::TopLogprobs& top);

// KL divergence in nats, sum of p ln(p / q). Tokens that are not listed on both sides count as one, with what is left
// of p and of q: merging tokens never raises a divergence, so the result is a lower bound then, and not exact. Infinite
// if q gives nothing to a token that p has.
struct Divergence {
  double kl = 0;
  bool is_exact = true;
};
// `vocab_size`: 0 if not known, and then no result is exact.
Divergence KlDivergence(const TokenDistribution& p, const TokenDistribution& q, uint32_t vocab_size);

struct Agreement {
  size_t positions = 0;
  double logprob_abs_diff_mean = 0;  // of the scored tokens
  double logprob_abs_diff_max = 0;
  // Empty or 0 if either side has no distributions.
  std::vector<double> kl;  // of dense's distribution from this one's, per position
  double kl_mean = 0;
  double kl_max = 0;
  bool kl_is_exact = true;    // false: a lower bound
  double top1_agreement = 0;  // share of the positions where both find the same token likeliest
};

// What one request said of the scored tokens.
struct ScoredPositions {
  std::span<const float> logprobs;
  std::span<const TokenDistribution> distributions;  // empty: not asked for
};
// REQUIRES (checked): equal numbers of positions, and of distributions where both have some.
Agreement Compare(const ScoredPositions& positions, const ScoredPositions& baseline, uint32_t vocab_size);

}  // namespace tributary
