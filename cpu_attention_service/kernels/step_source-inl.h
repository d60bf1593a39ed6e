// Cuts a call's tokens into steps: of a contiguous run, a tile each; of a piece list, four subgroups of 16 tokens each,
// wherever they lie. Included by decode_attention-inl.h.
#pragma once

#include "cpu_attention_service/kernels/decode_attention_args.h"
#include "cpu_attention_service/kernels/kernel_step.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

constexpr uint32_t kAllTokens = 0xffff;  // of a subgroup

struct PlannedStep {
  KernelStep step;
  uint32_t tokens[kKvTileSubgroups];    // which tokens of the slot take part, at all
  uint64_t position[kKvTileSubgroups];  // of the slot's first token
  // Only a piece list has these.
  uint32_t piece[kKvTileSubgroups];  // index of the slot's piece
  uint64_t rank[kKvTileSubgroups];   // how many tokens of the list come before the slot's; if weights are given
  // Lines of params to prefetch, which lie between the codes that the primitives prefetch.
  uint32_t num_param_lines;
  const unsigned char* param_lines[2 * kKvTileSubgroups];
};

struct StepSource {
  const DecodeAttentionArgs* args;
  uint64_t next_tile;  // of the run
  // Whether the last tile of the run was; then its plan holds for the next, moved by a record.
  bool is_whole;
  uint32_t next_piece;  // of the list
  uint32_t next_subgroup;
  uint64_t next_rank;
};

inline StepSource BeginSteps(const DecodeAttentionArgs& args) {
  return {&args, args.token_begin / kKvTileTokens, false, 0, 0, 0};
}

inline void AddSlot(const KvTileLayout& layout, const void* tile_record, uint32_t subgroup, uint32_t tokens,
                    uint64_t tile_position, PlannedStep* planned) {
  KernelStep& step = planned->step;
  const uint32_t slot = step.num_slots++;
  const unsigned char* tile = static_cast<const unsigned char*>(tile_record);
  step.k[slot] = tile + subgroup * layout.k_subgroup_bytes;
  step.v[slot] = tile + layout.v_begin + subgroup * layout.v_subgroup_bytes;
  step.k_params[slot] = tile + layout.k_params_begin;
  step.v_params[slot] = tile + layout.v_params_begin;
  step.subgroup[slot] = subgroup;
  planned->tokens[slot] = tokens;
  planned->position[slot] = tile_position + subgroup * kKvSubgroupTokens;
}

inline uint64_t TokensBelow(uint64_t count) {  // a mask
  return count >= kKvTileTokens ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
}

// Lets the primitives fetch what lies `bytes` ahead in a run. May reach beyond the run's end: prefetching reads
// nothing.
inline void PrefetchRun(const KvTileLayout& layout, uint32_t bytes, PlannedStep* planned) {
  KernelStep& step = planned->step;
  step.prefetch = true;
  for (uint32_t slot = 0; slot < kKvTileSubgroups; ++slot) {
    const uint32_t from = slot < step.num_slots ? slot : 0;
    step.next_k[slot] = step.k[from] + bytes;
    step.next_v[slot] = step.v[from] + bytes;
  }
  for (uint32_t at = layout.k_params_begin; at < layout.record_bytes; at += 64) {
    planned->param_lines[planned->num_param_lines++] = step.k_params[0] - layout.k_params_begin + at + bytes;
  }
}

inline void MoveByTile(uint32_t record_bytes, PlannedStep* planned) {
  KernelStep& step = planned->step;
  for (uint32_t slot = 0; slot < kKvTileSubgroups; ++slot) {
    step.k[slot] += record_bytes;
    step.v[slot] += record_bytes;
    step.k_params[slot] += record_bytes;
    step.v_params[slot] += record_bytes;
    planned->position[slot] += kKvTileTokens;
  }
  if (!step.prefetch) return;
  for (uint32_t slot = 0; slot < kKvTileSubgroups; ++slot) {
    step.next_k[slot] += record_bytes;
    step.next_v[slot] += record_bytes;
  }
  for (uint32_t i = 0; i < planned->num_param_lines; ++i) planned->param_lines[i] += record_bytes;
}

// `planned` is what the call before made, if there was one.
inline bool NextTileOfRun(StepSource* source, PlannedStep* planned) {
  const DecodeAttentionArgs& args = *source->args;
  const uint64_t begin = source->next_tile++ * kKvTileTokens;
  if (begin >= args.token_end || args.token_begin == args.token_end) return false;
  const bool is_whole = args.token_begin <= begin && begin + kKvTileTokens <= args.token_end;
  if (is_whole && source->is_whole) {
    MoveByTile(args.layout->record_bytes, planned);
    return true;
  }
  source->is_whole = is_whole;
  planned->step.num_slots = 0;
  planned->step.prefetch = false;
  planned->num_param_lines = 0;
  const void* tile = static_cast<const unsigned char*>(args.tiles) + begin / kKvTileTokens * args.layout->record_bytes;
  uint64_t mask = TokensBelow(args.token_end - begin);
  if (args.token_begin > begin) mask &= ~TokensBelow(args.token_begin - begin);
  for (uint32_t subgroup = 0; subgroup < kKvTileSubgroups; ++subgroup) {
    const uint32_t tokens = (mask >> (subgroup * kKvSubgroupTokens)) & kAllTokens;
    if (tokens != 0) AddSlot(*args.layout, tile, subgroup, tokens, begin, planned);
  }
  if (args.prefetch_bytes != 0) PrefetchRun(*args.layout, args.prefetch_bytes, planned);
  return true;
}

inline bool NextPieces(StepSource* source, PlannedStep* planned) {
  const DecodeAttentionArgs& args = *source->args;
  planned->step.num_slots = 0;
  planned->step.prefetch = false;
  planned->num_param_lines = 0;
  while (planned->step.num_slots < kKvTileSubgroups && source->next_piece < args.num_pieces) {
    const KvPiece& piece = args.pieces[source->next_piece];
    const uint32_t subgroup = source->next_subgroup;
    const uint32_t tokens = (piece.token_mask >> (subgroup * kKvSubgroupTokens)) & kAllTokens;
    if (tokens != 0) {
      const uint32_t slot = planned->step.num_slots;
      planned->piece[slot] = source->next_piece;
      planned->rank[slot] = source->next_rank;
      if (args.given_weights != nullptr) source->next_rank += static_cast<uint32_t>(__builtin_popcount(tokens));
      AddSlot(*args.layout, piece.tile, subgroup, tokens, piece.first_position, planned);
    }
    if (++source->next_subgroup == kKvTileSubgroups) {
      source->next_subgroup = 0;
      ++source->next_piece;
    }
  }
  return planned->step.num_slots != 0;
}

inline void AddParamLine(const unsigned char* param, PlannedStep* planned) {
  const uint32_t count = planned->num_param_lines;
  if (count != 0 &&
      (reinterpret_cast<uintptr_t>(param) ^ reinterpret_cast<uintptr_t>(planned->param_lines[count - 1])) < 64) {
    return;  // the line of the slot before
  }
  planned->param_lines[planned->num_param_lines++] = param;
}

// Lets the primitives fetch `next` while they work on `step`.
inline void PrefetchNext(const KvTileLayout& layout, const PlannedStep& next, PlannedStep* planned) {
  KernelStep& step = planned->step;
  step.prefetch = true;
  for (uint32_t slot = 0; slot < kKvTileSubgroups; ++slot) {
    const uint32_t from = slot < next.step.num_slots ? slot : 0;
    step.next_k[slot] = next.step.k[from];
    step.next_v[slot] = next.step.v[from];
  }
  const uint32_t k_bytes = kKvSubgroupTokens * KvParamBytesPerToken(layout.k_storage);
  const uint32_t v_bytes = kKvSubgroupTokens * KvParamBytesPerToken(layout.v_storage);
  for (uint32_t slot = 0; k_bytes != 0 && slot < next.step.num_slots; ++slot) {
    AddParamLine(next.step.k_params[slot] + next.step.subgroup[slot] * k_bytes, planned);
  }
  for (uint32_t slot = 0; v_bytes != 0 && slot < next.step.num_slots; ++slot) {
    AddParamLine(next.step.v_params[slot] + next.step.subgroup[slot] * v_bytes, planned);
  }
}

inline void PrefetchParamLines(const PlannedStep& planned) {
  for (uint32_t i = 0; i < planned.num_param_lines; ++i) PrefetchCodeLine(planned.param_lines[i]);
}

// The tokens of a slot at positions below visible_end.
inline uint32_t VisibleTokens(const PlannedStep& planned, uint32_t slot, uint64_t visible_end) {
  if (visible_end <= planned.position[slot]) return 0;
  const uint64_t visible = visible_end - planned.position[slot];
  if (visible >= kKvSubgroupTokens) return planned.tokens[slot];
  return planned.tokens[slot] & ((1u << visible) - 1);
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
