// Flash decode, written once: steps, online softmax, edges. Storage types come as primitives (kernel_step.h), lanes as
// a vec_*.h.
//
// A source that instantiates it defines the namespace TRIBUTARY_KERNEL_ISA, includes its vec_*.h (which defines `Vec`
// in that namespace), this file, and the prim_*-inl.h; defines
//   const KPrimitive* KPrimitiveOf(KvStorage) and const VPrimitive* VPrimitiveOf(KvStorage);
// and calls DecodeAttention. Everything has internal linkage, and nothing of the standard library is called but logf:
// see decode_attention_args.h.
#include <math.h>

#include "cpu_attention_service/kernels/lines_ahead-inl.h"
#include "cpu_attention_service/kernels/mask_values-inl.h"
#include "cpu_attention_service/kernels/piece_rows-inl.h"
#include "cpu_attention_service/kernels/row_batch-inl.h"
#include "cpu_attention_service/kernels/softmax-inl.h"
#include "cpu_attention_service/kernels/step_source-inl.h"
#include "cpu_attention_service/kernels/token_weights-inl.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// What of VPrimitive::early_bytes is fetched for each row, from step.next_v[0] on: half before its softmax and half
// behind, since a core can ask for few lines at once.
inline uint32_t EarlyBytesPerRow(const RowBatch& batch, const KernelStep& step) {
  if (batch.v->early_bytes == nullptr || !step.prefetch) return 0;
  if (!AreOneRun(step.next_v, batch.rows.layout->v_subgroup_bytes)) return 0;
  return batch.v->early_bytes(batch.rows.padded_dim) / batch.rows.num_rows / 128 * 128;
}

// A step of which every row sees every token.
inline void AttendWhole(const RowBatch& batch, const KernelStep& step, Scratch& scratch) {
  const uint32_t early_bytes = EarlyBytesPerRow(batch, step);
  for (uint32_t row = 0; row < batch.rows.num_rows; ++row) {
    for (uint32_t at = 0; at < early_bytes / 2; at += 64) {
      PrefetchCodeLine(step.next_v[0] + row * early_bytes + at);
    }
    float* scores = scratch.scores + row * kKvTileTokens;
    const RowState state = RowStateOf(scratch, row, batch.rows.padded_dim);
    if (step.num_slots == kKvTileSubgroups) {
      StepWeights<false>(batch.scale, kKvTileSubgroups, nullptr, batch.rows.padded_dim, scores, state);
    } else {
      StepWeights<false>(batch.scale, step.num_slots, nullptr, batch.rows.padded_dim, scores, state);
    }
    for (uint32_t at = early_bytes / 2; at < early_bytes; at += 64) {
      PrefetchCodeLine(step.next_v[0] + row * early_bytes + at);
    }
  }
  batch.v->accumulate(batch.rows, step, scratch.scores, WeightSums(batch, scratch), scratch.acc);
}

// A step at an edge: query token by query token, since each may see other tokens.
inline void AttendMasked(const RowBatch& batch, const PlannedStep& planned, Scratch& scratch) {
  const DecodeAttentionArgs& args = *batch.args;
  const KernelStep& step = planned.step;
  const uint32_t padded_dim = batch.rows.padded_dim;
  for (uint32_t row = 0; row < batch.rows.num_rows;) {
    const uint32_t query = (batch.first_row + row) / args.group_size;
    uint32_t end = args.visible_end == nullptr  // one pass if all see the same
                       ? batch.rows.num_rows
                       : (query + 1) * args.group_size - batch.first_row;
    if (end > batch.rows.num_rows) end = batch.rows.num_rows;
    uint32_t tokens[kKvTileSubgroups];
    uint32_t any = 0;
    for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
      tokens[slot] =
          args.visible_end == nullptr ? planned.tokens[slot] : VisibleTokens(planned, slot, args.visible_end[query]);
      any |= tokens[slot];
    }
    if (any != 0) {
      for (uint32_t r = row; r < end; ++r) {
        StepWeights<true>(batch.scale, step.num_slots, tokens, padded_dim, scratch.scores + r * kKvTileTokens,
                          RowStateOf(scratch, r, padded_dim));
      }
      const KernelRows rows = {end - row, padded_dim, batch.rows.layout};
      const KernelStep masked = WithMaskedValues(*args.layout, step, tokens, &scratch.masked);
      batch.v->accumulate(rows, masked, scratch.scores + row * kKvTileTokens,
                          WeightSums(batch, scratch) + row * kWeightSumLanes, scratch.acc + row * padded_dim);
    }
    row = end;
  }
}

// Whether all rows see all tokens of all slots.
inline bool IsWhole(const PlannedStep& planned, uint64_t visible_to_all) {
  for (uint32_t slot = 0; slot < planned.step.num_slots; ++slot) {
    if (planned.tokens[slot] != kAllTokens) return false;
    if (planned.position[slot] + kKvSubgroupTokens > visible_to_all) return false;
  }
  return true;
}

inline void WriteRows(const RowBatch& batch, Scratch& scratch) {
  const uint32_t head_dim = batch.args->layout->head_dim;
  if (batch.v->finish != nullptr) batch.v->finish(batch.rows, scratch.acc);
  for (uint32_t row = 0; row < batch.rows.num_rows; ++row) {
    float* out = batch.args->out + uint64_t{batch.first_row + row} * head_dim;
    float* lse_ln = batch.args->lse_ln + batch.first_row + row;
    const float sum = SumLanes(scratch.sum + row * kWeightSumLanes);
    if (scratch.max_log2[row] == -INFINITY && sum == 0) {  // saw nothing
      for (uint32_t d = 0; d < head_dim; ++d) out[d] = 0.0f;
      *lse_ln = -INFINITY;
      continue;
    }
    const float weight_sum = SumLanes(WeightSums(batch, scratch) + row * kWeightSumLanes);
    const float factor = 1.0f / weight_sum;
    const float* acc = scratch.acc + row * batch.rows.padded_dim;
    for (uint32_t d = 0; d < head_dim; ++d) out[d] = acc[d] * factor;
    *lse_ln = scratch.max_log2[row] * kLn2 + logf(sum);
  }
}

inline void AttendStep(const RowBatch& batch, const PlannedStep& planned, uint64_t visible_to_all, Scratch& scratch) {
  PrefetchParamLines(planned);
  batch.k->score(batch.rows, scratch.prepared, planned.step, scratch.scores);
  if (IsWhole(planned, visible_to_all)) {
    AttendWhole(batch, planned.step, scratch);
  } else {
    AttendMasked(batch, planned, scratch);
  }
}

inline void AttendPieces(const RowBatch& batch, uint64_t visible_to_all, Scratch& scratch) {
  StepSource source = BeginSteps(*batch.args);
  PlannedStep planned[2];
  uint32_t now = 0;
  bool more = NextPieces(&source, &planned[now]);
  while (more) {
    PlannedStep& current = planned[now];
    now ^= 1;
    more = NextPieces(&source, &planned[now]);
    if (more) PrefetchNext(*batch.args->layout, planned[now], &current);
    if (batch.args->row_masks != nullptr) {
      AttendStepOfRows(batch, current, scratch);
    } else if (batch.args->given_weights != nullptr) {
      AddGivenStep(batch, current, scratch);
    } else {
      AttendStep(batch, current, visible_to_all, scratch);
    }
  }
}

inline void AttendRows(const RowBatch& batch, Scratch& scratch) {
  const DecodeAttentionArgs& args = *batch.args;
  uint64_t visible_to_all = ~uint64_t{0};
  for (uint32_t i = 0; args.visible_end != nullptr && i < args.n_q; ++i) {
    if (args.visible_end[i] < visible_to_all) visible_to_all = args.visible_end[i];
  }
  if (args.given_weights != nullptr) {
    ClearRows(batch, scratch);
  } else {
    PrepareRows(batch, scratch);
  }
  if (args.pieces != nullptr) {
    AttendPieces(batch, visible_to_all, scratch);
  } else {
    StepSource source = BeginSteps(args);
    PlannedStep planned;
    while (NextTileOfRun(&source, &planned)) AttendStep(batch, planned, visible_to_all, scratch);
  }
  if (args.given_weights != nullptr) FinishGivenRows(batch, scratch);
  WriteRows(batch, scratch);
}

// Replaces attention where args.token_weights asks for it.
inline void AddTokenWeights(RowBatch batch, Scratch& scratch) {
  const DecodeAttentionArgs& args = *batch.args;
  const uint32_t queries_at_once = kMaxKernelRows / args.group_size;
  for (uint32_t query = 0; query < args.n_q; query += queries_at_once) {
    const uint32_t rest = args.n_q - query;
    const uint32_t num_queries = rest < queries_at_once ? rest : queries_at_once;
    batch.first_row = query * args.group_size;
    batch.rows = {num_queries * args.group_size, args.layout->padded_dim, args.layout};
    PrepareRows(batch, scratch);
    const TokenWeightRows rows = {batch.scale, args.lse_ln + batch.first_row, num_queries, args.group_size,
                                  args.max_over_group};
    StepSource source = BeginSteps(args);
    for (PlannedStep planned; NextTileOfRun(&source, &planned);) {
      PrefetchParamLines(planned);
      batch.k->score(batch.rows, scratch.prepared, planned.step, scratch.scores);
      AddStepWeights(rows, planned, scratch.scores, args.token_begin, args.token_weights);
    }
  }
}

inline void DecodeAttention(const DecodeAttentionArgs& args, const KPrimitive* k, const VPrimitive* v) {
  Scratch scratch;
  const uint32_t num_rows = args.n_q * args.group_size;
  RowBatch batch;
  batch.args = &args;
  batch.k = k;
  batch.v = v;
  batch.scale = MakeScoreScale(args.softmax_scale, args.soft_cap);
  if (args.token_weights != nullptr) {
    AddTokenWeights(batch, scratch);
    return;
  }
  for (uint32_t row = 0; row < num_rows; row += kMaxKernelRows) {
    const uint32_t rest = num_rows - row;
    batch.first_row = row;
    batch.rows = {rest < kMaxKernelRows ? rest : kMaxKernelRows, args.layout->padded_dim, args.layout};
    AttendRows(batch, scratch);
  }
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
