// How much weight each token of a run has in a softmax whose lse is known: one pass over K alone, for policies that
// select by attention weights. Included by decode_attention-inl.h.
#pragma once

#include "cpu_attention_service/kernels/softmax-inl.h"
#include "cpu_attention_service/kernels/step_source-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// NaN if either is: Max alone would drop one of the two.
inline Vec MaxOrNan(Vec a, Vec b) { return MulAdd(Vec::Zero(), Add(a, b), Max(a, b)); }

struct TokenWeightRows {
  ScoreScale scale;
  const float* lse_ln;  // of the first row
  uint32_t num_queries;
  uint32_t group_size;
  bool max_over_group;
};

// Weighs Vec::kLanes tokens: takes the maximum or the mean over each query's group, and sums over the queries. `scores`
// is that of the first row; row r is at scores + r * kKvTileTokens.
inline Vec SumOfGroupWeights(const TokenWeightRows& rows, const float* scores) {
  const Vec mean = Vec::Broadcast(1.0f / static_cast<float>(rows.group_size));
  Vec sum = Vec::Zero();
  uint32_t row = 0;
  for (uint32_t query = 0; query < rows.num_queries; ++query) {
    Vec group = Vec::Zero();
    for (uint32_t head = 0; head < rows.group_size; ++head, ++row) {
      const Vec score = ScaledScore(rows.scale, Vec::Load(scores + row * kKvTileTokens));
      const Vec weight = Exp2(Sub(score, Vec::Broadcast(rows.lse_ln[row] * kLog2E)));
      group = rows.max_over_group ? MaxOrNan(group, weight) : Add(group, weight);
    }
    sum = Add(sum, rows.max_over_group ? group : Mul(group, mean));
  }
  return sum;
}

// Adds the weights of a step's tokens; token_weights[0] is of the token at position `token_begin`.
inline void AddStepWeights(const TokenWeightRows& rows, const PlannedStep& planned, const float* scores,
                           uint64_t token_begin, float* token_weights) {
  for (uint32_t slot = 0; slot < planned.step.num_slots; ++slot) {
    alignas(64) float weights[kKvSubgroupTokens];
    for (uint32_t i = 0; i < kKvSubgroupTokens; i += Vec::kLanes) {
      SumOfGroupWeights(rows, scores + slot * kKvSubgroupTokens + i).Store(weights + i);
    }
    for (uint32_t token = 0; token < kKvSubgroupTokens; ++token) {
      if ((planned.tokens[slot] >> token & 1) == 0) continue;
      token_weights[planned.position[slot] + token - token_begin] += weights[token];
    }
  }
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
