// Mode `calibrated`: how much of its blocks' bound mass one query head has to read, from cheap numbers of this query
// and from what earlier ones showed.
//
// Let B = sum over the whole blocks of exp(score), R = exp(resident lse), and c the ratio of the true remote mass to B,
// which queries that read everything measure (scores are off by a factor that a head keeps from query to query). Then
// T = R + c B estimates the whole softmax's mass, of which a block holds the share c exp(score) / T. The head reads
//
//   the fewest best blocks with R + c (their B) >= captured T,
//   of them those that hold at least min_block_mass,
//   at most max_budget of all.
//
// What may be dropped, 1 - captured, is what the output may be wrong by, target_output_error, over what dropping costs:
// the head's contrast |o_remote - o_resident| / max over heads |o_full|, which measured queries know. A head whose
// output is small, or whose far values are like its near ones, may drop much. `captured_mass` above 0 says it instead.
//
// So a head whose window holds what matters reads nothing: the gate on remote mass and on the largest block, relative
// to the resident lse, is the first two lines with an empty set.
//
// On samples the true error of its output is known (output_error.h). A head that missed the target reads more from then
// on: its budget grows by half at each miss, and shrinks by 2 % at each sample without one, to what it began with.
//
// Mode `predictor` multiplies what the query says with the same raise; a head that needs nothing, by the predictor, and
// missed reads a little.
//
// Without a resident lse R counts as 0: shares are of the remote mass then, and no head is without blocks.
// Pure; thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>

#include "policy/fluxion/budget_predictor.h"
#include "policy/fluxion/fluxion.h"

namespace tributary {

// A query head's whole blocks of one size, at one query.
struct BlockBounds {
  float lse_ln = -std::numeric_limits<float>::infinity();  // ln B
  uint32_t num_blocks = 0;
};

// Which whole blocks a query head reads; all three hold.
struct BlockRule {
  double captured_share = 1;  // the fewest best blocks with this share of B; 0 or less: none
  float least_bound = -std::numeric_limits<float>::infinity();
  uint32_t max_blocks = std::numeric_limits<uint32_t>::max();
};

class HeadBudget {
 public:
  HeadBudget() { looseness_ln_.fill(std::numeric_limits<float>::quiet_NaN()); }

  // Before, the head reads everything.
  bool is_calibrated() const { return is_calibrated_; }
  // A query read everything: the lse over it, and over the bounds by block size, kFluxionBlockTokens; NaN: not scored.
  void OnDense(float lse_dense_ln, std::span<const float> bound_lse_ln);
  // A measured query showed the head's contrast. NaN is not taken.
  void OnContrast(double contrast);
  // The true error of what the rule chose at a query.
  void OnSample(double error, double target);

  // `size_idx`: of kFluxionBlockTokens. A resident lse of -inf or NaN is unknown. REQUIRES: is_calibrated().
  BlockRule RuleOf(const FluxionParams& params, uint32_t size_idx, const BlockBounds& bounds,
                   float resident_lse_ln) const;

  // Mode `predictor`: the share of the blocks of kFluxionBlockTokens[size_idx] that the head reads, in [0, 1].
  double ShareOf(const FluxionParams& params, const PredictedBudget& predicted, uint32_t size_idx) const;

  float raise() const { return raise_; }
  float contrast() const;  // what is assumed, until it is known

 private:
  std::array<float, kNumFluxionBlockSizes> looseness_ln_;  // ln c
  float raise_ = 1;
  float contrast_ = std::numeric_limits<float>::quiet_NaN();
  bool is_calibrated_ = false;
};

}  // namespace tributary
