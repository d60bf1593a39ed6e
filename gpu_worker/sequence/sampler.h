// Chooses a token by its logits: greedy, or temperature, top-k and top-p with a seed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cluster/sampling.h"
#include "cluster/worker_event.h"

namespace tributary {

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

// The `count` likeliest, or all if there are fewer. REQUIRES: no logit is NaN or +inf.
TopTokens LikeliestTokens(std::span<const float> logits, uint32_t count);

}  // namespace tributary
