// Chooses a token by its logits: greedy, or temperature, top-k, top-p and min-p with a seed; before that, penalties.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cluster/sampling.h"
#include "cluster/worker_event.h"
#include "gpu_worker/sequence/token_history.h"

namespace tributary {

struct SampledToken {
  uint32_t token = 0;
  double logprob = 0;  // natural log, under the model itself: temperature 1, no cuts, no penalties. NaN
                       // if the logits are not finite.
};

// The choice depends on logits, params, position and history alone, so a sequence's tokens do not depend on
// its batch. Ties go to the lower token id. First come logit_bias and the penalties, in the order of
// TokenHistory::Penalise(). Order of the cuts, as Transformers has it: temperature, top-k, top-p (the
// smallest set of most likely tokens whose probabilities reach top_p), min-p (tokens with at least min_p of
// the likeliest one's probability; the likeliest one is always left). REQUIRES: Validate(params).ok(), logits not
// empty; the history has what the params penalise.
SampledToken Sample(std::span<const float> logits, const SamplingParams& params, uint64_t position,
                    const TokenHistory& history = {});

// ln softmax(logits)[token]. REQUIRES: token < logits.size().
double LogProb(std::span<const float> logits, uint32_t token);

// The `count` likeliest, or all if there are fewer. REQUIRES: no logit is NaN or +inf.
TopTokens LikeliestTokens(std::span<const float> logits, uint32_t count);

}  // namespace tributary
