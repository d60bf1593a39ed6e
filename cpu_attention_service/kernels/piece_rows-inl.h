// Steps of a piece list whose rows differ: each sees some of the tokens (DecodeAttentionArgs::row_masks), or weighs
// them as it was told to (given_weights). Included by decode_attention-inl.h.
#pragma once

#include "cpu_attention_service/kernels/row_batch-inl.h"
#include "cpu_attention_service/kernels/step_source-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// Tokens of each slot that one row of the call sees.
struct SlotTokens {
  uint32_t of[kKvTileSubgroups];
};

inline SlotTokens TokensOfRow(const DecodeAttentionArgs& args, const PlannedStep& planned, uint32_t row) {
  SlotTokens tokens = {};
  for (uint32_t slot = 0; slot < planned.step.num_slots; ++slot) {
    const uint64_t mask = args.row_masks[uint64_t{planned.piece[slot]} * args.row_mask_stride + row];
    const uint32_t shift = planned.step.subgroup[slot] * kKvSubgroupTokens;
    uint32_t seen = static_cast<uint32_t>(mask >> shift) & planned.tokens[slot];
    if (args.visible_end != nullptr) seen &= VisibleTokens(planned, slot, args.visible_end[row / args.group_size]);
    tokens.of[slot] = seen;
  }
  return tokens;
}

inline bool AreSame(const SlotTokens& a, const SlotTokens& b) {
  for (uint32_t slot = 0; slot < kKvTileSubgroups; ++slot) {
    if (a.of[slot] != b.of[slot]) return false;
  }
  return true;
}

// Leaves out the slots of which nothing is seen, in the step, in `tokens`, and in the scores of `num_rows` rows: a
// block that a head has not chosen costs it nothing but its scores.
inline void DropUnseenSlots(uint32_t num_rows, KernelStep* step, SlotTokens* tokens, float* scores) {
  uint32_t kept = 0;
  for (uint32_t slot = 0; slot < step->num_slots; ++slot) {
    if (tokens->of[slot] == 0) continue;
    if (kept != slot) {
      step->v[kept] = step->v[slot];
      step->v_params[kept] = step->v_params[slot];
      step->subgroup[kept] = step->subgroup[slot];
      tokens->of[kept] = tokens->of[slot];
      for (uint32_t row = 0; row < num_rows; ++row) {
        float* of_row = scores + row * kKvTileTokens;
        for (uint32_t i = 0; i < kKvSubgroupTokens; ++i) {
          of_row[kept * kKvSubgroupTokens + i] = of_row[slot * kKvSubgroupTokens + i];
        }
      }
    }
    ++kept;
  }
  step->num_slots = kept;
}

// Rows [row, row + num_rows) of the batch, which all see `tokens`.
inline void AttendRowsAlike(const RowBatch& batch, KernelStep step, SlotTokens tokens, uint32_t row, uint32_t num_rows,
                            Scratch& scratch) {
  const uint32_t padded_dim = batch.rows.padded_dim;
  float* scores = scratch.scores + row * kKvTileTokens;
  DropUnseenSlots(num_rows, &step, &tokens, scores);
  if (step.num_slots == 0) return;
  for (uint32_t r = 0; r < num_rows; ++r) {
    StepWeights<true>(batch.scale, step.num_slots, tokens.of, padded_dim, scores + r * kKvTileTokens,
                      RowStateOf(scratch, row + r, padded_dim));
  }
  const KernelRows rows = {num_rows, padded_dim, batch.rows.layout};
  const KernelStep masked = WithMaskedValues(*batch.args->layout, step, tokens.of, &scratch.masked);
  batch.v->accumulate(rows, masked, scores, WeightSums(batch, scratch) + row * kWeightSumLanes,
                      scratch.acc + row * padded_dim);
}

// Neighbouring rows that see the same go together; what comes next is fetched with the first of them.
inline void AttendStepOfRows(const RowBatch& batch, const PlannedStep& planned, Scratch& scratch) {
  PrefetchParamLines(planned);
  batch.k->score(batch.rows, scratch.prepared, planned.step, scratch.scores);
  KernelStep step = planned.step;
  for (uint32_t row = 0; row < batch.rows.num_rows;) {
    const SlotTokens tokens = TokensOfRow(*batch.args, planned, batch.first_row + row);
    uint32_t end = row + 1;
    while (end < batch.rows.num_rows && AreSame(tokens, TokensOfRow(*batch.args, planned, batch.first_row + end))) {
      ++end;
    }
    AttendRowsAlike(batch, step, tokens, row, end - row, scratch);
    step.prefetch = false;
    row = end;
  }
}

// The weights that a row was given for the step's tokens, where the others' scores would lie; the row's sums with them.
inline void SetGivenWeights(const PlannedStep& planned, const float* given, float* weights, const RowState& state) {
  for (uint32_t slot = 0; slot < planned.step.num_slots; ++slot) {
    uint64_t rank = planned.rank[slot];
    for (uint32_t i = 0; i < kKvSubgroupTokens; ++i) {
      const bool is_listed = (planned.tokens[slot] >> i & 1) != 0;
      const float weight = is_listed ? given[rank++] : 0.0f;
      weights[slot * kKvSubgroupTokens + i] = weight;
      state.sum[i] += weight;
    }
  }
}

inline void AddGivenStep(const RowBatch& batch, const PlannedStep& planned, Scratch& scratch) {
  const DecodeAttentionArgs& args = *batch.args;
  PrefetchParamLines(planned);
  for (uint32_t row = 0; row < batch.rows.num_rows; ++row) {
    const float* given = args.given_weights + (batch.first_row + row) * args.given_weight_stride;
    SetGivenWeights(planned, given, scratch.scores + row * kKvTileTokens,
                    RowStateOf(scratch, row, batch.rows.padded_dim));
  }
  const KernelStep masked = WithMaskedValues(*args.layout, planned.step, planned.tokens, &scratch.masked);
  batch.v->accumulate(batch.rows, masked, scratch.scores, WeightSums(batch, scratch), scratch.acc);
}

// Is called after the last step. Given weights are not relative to a maximum; where all are 0, or too small for the
// primitive, the row has seen nothing.
inline void FinishGivenRows(const RowBatch& batch, Scratch& scratch) {
  for (uint32_t row = 0; row < batch.rows.num_rows; ++row) {
    float* sum = scratch.sum + row * kWeightSumLanes;
    scratch.max_log2[row] = 0;
    if (SumLanes(WeightSums(batch, scratch) + row * kWeightSumLanes) != 0) continue;
    scratch.max_log2[row] = -INFINITY;
    for (uint32_t i = 0; i < kWeightSumLanes; ++i) sum[i] = 0;
  }
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
