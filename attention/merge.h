// The merge formula, once, for host and CUDA. See attention/README.md for the algebra.
//
// State of a fold over partials of one query head: a running maximum m of the lse_ln seen, the sum
// w = sum_i exp(lse_i - m), and out = sum_i exp(lse_i - m) out_i. Finish divides by w. All in f32.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/host_device.h"

namespace tributary {

// The factors by which a fold step scales what it has and what it adds.
struct MergeWeights {
  float keep;
  float add;
};

// One query head's fold. `max_lse_ln` starts at -inf and `sum` at 0: the empty partial.
struct MergeState {
  float max_lse_ln = -INFINITY;
  float sum = 0.0f;

  // Folds in a partial with this lse_ln; the caller applies out = out * keep + partial.out * add.
  TRIBUTARY_HOST_DEVICE MergeWeights Fold(float lse_ln) {
    if (lse_ln == -INFINITY) return {1.0f, 0.0f};  // empty: exp(-inf - -inf) would be NaN
    if (lse_ln > max_lse_ln) {
      const float keep = max_lse_ln == -INFINITY ? 0.0f : expf(max_lse_ln - lse_ln);
      max_lse_ln = lse_ln;
      sum = sum * keep + 1.0f;
      return {keep, 1.0f};
    }
    const float add = expf(lse_ln - max_lse_ln);
    sum += add;
    return {1.0f, add};
  }

  TRIBUTARY_HOST_DEVICE float LseLn() const { return sum == 0.0f ? -INFINITY : max_lse_ln + logf(sum); }
  // Factor for the folded out; 0 for the empty fold, so that out stays 0.
  TRIBUTARY_HOST_DEVICE float Normaliser() const { return sum == 0.0f ? 0.0f : 1.0f / sum; }
};

// A learnt sink: one more addend of the softmax's denominator, without a value. It is a partial with out = 0 and lse_ln
// = the sink's logit, and one partial of a query head takes it in, once. Returns the factor for that partial's out.
TRIBUTARY_HOST_DEVICE inline float FoldSink(float sink_logit, float* lse_ln) {
  MergeState state;
  state.Fold(*lse_ln);
  const MergeWeights weights = state.Fold(sink_logit);
  *lse_ln = state.LseLn();
  return weights.keep * state.Normaliser();
}

}  // namespace tributary
