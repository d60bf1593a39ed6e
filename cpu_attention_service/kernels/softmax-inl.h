// The online softmax of one row: scores of a step -> weights, running maximum and sum (Milakov and Gimelshein, "Online
// normalizer calculation for softmax", 2018). Included by decode_attention-inl.h, after a vec_*.h.
//
// Scores are kept times log2(e), so that weights are powers of 2. The sum stays spread over lanes, and the maximum is
// reduced over lanes only in steps where some lane exceeds it: most steps reduce nothing.
#pragma once

#include <math.h>

#include "cpu_attention_service/kernels/kernel_step.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

struct ScoreScale {
  float scale_log2;  // softmax_scale * log2(e), or with a cap: softmax_scale / soft_cap
  float cap_log2;    // soft_cap * log2(e); 0: no cap
};

inline ScoreScale MakeScoreScale(float softmax_scale, float soft_cap) {
  if (soft_cap == 0) return {softmax_scale * kLog2E, 0};
  return {softmax_scale / soft_cap, soft_cap * kLog2E};
}

// Near 0 the polynomial of Cephes' tanhf (S. Moshier), elsewhere from e^(-2|x|). NaN gives NaN.
inline Vec Tanh(Vec x) {
  const Vec z = Mul(x, x);
  Vec poly = Vec::Broadcast(-5.70498872745e-3f);
  poly = MulAdd(poly, z, Vec::Broadcast(2.06390887954e-2f));
  poly = MulAdd(poly, z, Vec::Broadcast(-5.37397155531e-2f));
  poly = MulAdd(poly, z, Vec::Broadcast(1.33314422036e-1f));
  poly = MulAdd(poly, z, Vec::Broadcast(-3.33332819422e-1f));
  const Vec small = MulAdd(Mul(poly, z), x, x);
  const Vec e = Exp2(Mul(Abs(x), Vec::Broadcast(-2 * kLog2E)));
  const Vec one = Vec::Broadcast(1.0f);
  const Vec large = Div(Sub(one, e), Add(one, e));
  const Vec signed_large = IfLess(x, Vec::Zero(), Sub(Vec::Zero(), large), large);
  return IfLess(Abs(x), Vec::Broadcast(0.625f), small, signed_large);
}

inline Vec ScaledScore(const ScoreScale& scale, Vec score) {
  const Vec scaled = Mul(score, Vec::Broadcast(scale.scale_log2));
  if (scale.cap_log2 == 0) return scaled;
  return Mul(Tanh(scaled), Vec::Broadcast(scale.cap_log2));
}

// The state of one row. `sum` and `weight_sum` are [kWeightSumLanes].
struct RowState {
  float* max_log2;
  float* sum;
  float* weight_sum;
  float* acc;  // [padded_dim]
};

inline void Rescale(const RowState& row, float new_max, uint32_t padded_dim) {
  alignas(64) float lanes[Vec::kLanes];
  Exp2(Sub(Vec::Broadcast(*row.max_log2), Vec::Broadcast(new_max))).Store(lanes);
  const Vec keep = Vec::Broadcast(lanes[0]);
  for (uint32_t i = 0; i < kWeightSumLanes; i += Vec::kLanes) {
    Mul(Vec::Load(row.sum + i), keep).Store(row.sum + i);
    Mul(Vec::Load(row.weight_sum + i), keep).Store(row.weight_sum + i);
  }
  for (uint32_t d = 0; d < padded_dim; d += Vec::kLanes) {
    Mul(Vec::Load(row.acc + d), keep).Store(row.acc + d);
  }
  *row.max_log2 = new_max;
}

// Turns the scores of `num_slots` slots into weights. kMasked: tokens[slot] says which tokens the row sees; the others
// get weight 0, whatever their score. NaN scores make NaN weights.
template <bool kMasked>
inline void StepWeights(const ScoreScale& scale, uint32_t num_slots, const uint32_t* tokens, uint32_t padded_dim,
                        float* scores, const RowState& row) {
  constexpr uint32_t kSlotVecs = kKvSubgroupTokens / Vec::kLanes;
  const Vec minus_infinity = Vec::Broadcast(-INFINITY);
  Vec highest = minus_infinity;
  for (uint32_t slot = 0; slot < num_slots; ++slot) {
    for (uint32_t i = 0; i < kSlotVecs; ++i) {
      float* at = scores + slot * kKvSubgroupTokens + i * Vec::kLanes;
      Vec score = ScaledScore(scale, Vec::Load(at));
      if (kMasked) score = Blend(tokens[slot] >> (i * Vec::kLanes), score, minus_infinity);
      score.Store(at);
      highest = Max(highest, score);
    }
  }
  if (AnyGreater(highest, Vec::Broadcast(*row.max_log2))) {
    Rescale(row, ReduceMax(highest), padded_dim);
  }
  const Vec max = Vec::Broadcast(*row.max_log2);
  for (uint32_t i = 0; i < kSlotVecs; ++i) {
    Vec sum = Vec::Load(row.sum + i * Vec::kLanes);
    for (uint32_t slot = 0; slot < num_slots; ++slot) {
      float* at = scores + slot * kKvSubgroupTokens + i * Vec::kLanes;
      Vec weight = Exp2(Sub(Vec::Load(at), max));
      if (kMasked) weight = Blend(tokens[slot] >> (i * Vec::kLanes), weight, Vec::Zero());
      weight.Store(at);
      sum = Add(sum, weight);
    }
    sum.Store(row.sum + i * Vec::kLanes);
  }
}

// Adds in a fixed order.
inline float SumLanes(const float* lanes) {
  float sum[8];
  for (uint32_t i = 0; i < 8; ++i) sum[i] = lanes[i] + lanes[i + 8];
  for (uint32_t width = 4; width != 0; width /= 2) {
    for (uint32_t i = 0; i < width; ++i) sum[i] += sum[i + width];
  }
  return sum[0];
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
