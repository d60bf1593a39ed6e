// From logits to a token: greedy, or temperature, top-k and top-p with a seed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"

namespace tributary {

struct SamplingParams {
  float temperature = 0;  // 0 = greedy
  uint32_t top_k = 0;     // 0 = off
  float top_p = 0;        // 0 or 1 = off
  uint64_t seed = 0;
};

// INVALID_ARGUMENT with the offending value: temperature negative or not finite, top_p outside [0,
// 1].
absl::Status Validate(const SamplingParams& params);

struct SampledToken {
  uint32_t token = 0;
  double logprob = 0;  // natural log, under the model itself: temperature 1, no cuts. NaN if the
                       // logits are not finite.
};

// The choice depends on logits, params and position alone, so a sequence's tokens do not depend on
// its batch. Ties go to the lower token id. Order of the cuts: temperature, top-k, top-p (the
// smallest set of most likely tokens whose probabilities reach top_p). REQUIRES:
// Validate(params).ok(), logits not empty.
SampledToken Sample(std::span<const float> logits, const SamplingParams& params, uint64_t position);

// ln softmax(logits)[token]. REQUIRES: token < logits.size().
double LogProb(std::span<const float> logits, uint32_t token);

// Some of the likeliest tokens of one position.
struct TopTokens {
  std::vector<uint32_t> tokens;  // likeliest first, the lower id first on a tie
  std::vector<float> logprobs;   // ln softmax(logits) of each, worked out in f64 as LogProb's
};
// The `count` likeliest, or all if there are fewer. REQUIRES: no logit is NaN or +inf.
TopTokens LikeliestTokens(std::span<const float> logits, uint32_t count);

}  // namespace tributary
