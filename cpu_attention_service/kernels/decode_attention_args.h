// The one call that every CPU kernel implements: flash decode over one stream (one KV head of one layer) for all query
// heads that share it, over tiles (attention/kv/kv_tile_layout.h). Plain data and plain functions only: this header is
// included by the sources with ISA flags, where an inline function of the standard library would be compiled for that
// ISA and might then be the copy that the linker keeps for the whole binary.
#pragma once

#include <cstdint>

#include "attention/kv/kv_tile_layout.h"
#include "base/limits.h"

namespace tributary {

// Query tokens of one call: speculative tokens or a piece of an appended prompt.
inline constexpr uint32_t kMaxKernelQueryTokens = 8;

// Tokens of one tile that take part. A block of 16, 32 or 64 tokens is a mask of as many bits; a block of 128 is two
// pieces. The kernel reads the codes of every subgroup of 16 tokens of which the mask has any.
struct KvPiece {
  const void* tile = nullptr;   // the tile's record, aligned to kKvTileAlignBytes
  uint64_t token_mask = 0;      // bit t: token t of the tile; a piece without tokens is allowed
  uint64_t first_position = 0;  // position of the tile's token 0, in the unit of visible_end
};

// Tokens are given either as one contiguous run (`pieces` null) or as a list of pieces.
struct DecodeAttentionArgs {
  const float* q = nullptr;  // [n_q][group_size][head_dim]
  uint32_t n_q = 1;          // 1 .. kMaxKernelQueryTokens
  uint32_t group_size = 0;   // 1 .. limits::kMaxGroupSize
  // MakeKvTileLayout made it: storages, head_dim (1 .. limits::kMaxHeadDim), sizes.
  const KvTileLayout* layout = nullptr;

  // The run: tokens [token_begin, token_end), counted from token 0 of the tile at `tiles`. Tiles follow each other at
  // layout->record_bytes. The position of a token is its index here.
  const void* tiles = nullptr;  // aligned to kKvTileAlignBytes
  uint64_t token_begin = 0;
  uint64_t token_end = 0;

  // The list, in the order in which it is to be read (best: ascending addresses). Prefetches one step ahead.
  const KvPiece* pieces = nullptr;
  uint32_t num_pieces = 0;
  // A list has it, or null (each row sees what the pieces have): row r, of n_q * group_size, sees of piece i only those
  // of its tokens that are in row_masks[i * row_mask_stride + r]. What no row sees is read all the same.
  const uint64_t* row_masks = nullptr;
  uint32_t row_mask_stride = 0;  // >= n_q * group_size

  // A run is prefetched this far ahead; 0 leaves it to the hardware. cpu_kernels::RunPrefetchBytes knows the best.
  uint32_t prefetch_bytes = 0;

  // [n_q] or null. Query token i attends to the tokens at positions < visible_end[i] only; null: to all. Causal: for
  // query tokens at positions p, p + 1, ...: p + 1, p + 2, ...
  const uint64_t* visible_end = nullptr;

  float softmax_scale = 0;  // score = softmax_scale * q.k
  float soft_cap = 0;       // if not 0: score = soft_cap * tanh(softmax_scale * q.k / soft_cap)

  float* out = nullptr;     // [n_q][group_size][head_dim], normalised; zeros where nothing is visible
  float* lse_ln = nullptr;  // [n_q][group_size]; -inf where nothing is visible

  // If not null, the call gives the weights of a run's tokens in place of attention: `lse_ln` is read, of a call before
  // over any tokens that include these, `out` is not touched, and of the tokens K alone is read. `pieces` and
  // `visible_end` are null. To each token's weight is added, summed over the query tokens, the maximum or the mean over
  // the group of exp(score - lse_ln); NaN if any of them is.
  float* token_weights = nullptr;  // [token_end - token_begin]
  bool max_over_group = false;

  // If not null, the call sums a list's V with weights that are given in place of attention: out = sum w v / sum w and
  // lse_ln = ln sum w, or zeros and -inf where all weights are 0. K and `q` are not read; `visible_end`, `row_masks`
  // and `token_weights` are null, `softmax_scale` and `soft_cap` play no part. Row r, of n_q * group_size, gives the
  // token that is the list's i-th (in the order of the pieces, of a piece in ascending order) the weight
  // given_weights[r * given_weight_stride + i], in [0, 1]. A NaN makes the row NaN.
  const float* given_weights = nullptr;
  uint64_t given_weight_stride = 0;  // >= tokens of the list
};

// Reads each visible subgroup of 16 tokens once (for n_q * group_size above 64: once per 64 of them). Allocates
// nothing; takes up to 512 KiB of stack, as much as the geometry needs. Never fails: ValidateDecodeAttention
// (kernels.h) says what it requires. NaN and Inf in the K or V of a token reach the rows that see it, and no others.
// The results are a function of the arguments' values alone: the same bits on each call, whatever the thread.
using DecodeAttentionFn = void (*)(const DecodeAttentionArgs& args);

void DecodeAttentionScalar(const DecodeAttentionArgs& args);
void DecodeAttentionAvx2(const DecodeAttentionArgs& args);
void DecodeAttentionAvx512(const DecodeAttentionArgs& args);
void DecodeAttentionAvx512Bf16(const DecodeAttentionArgs& args);
void DecodeAttentionAmx(const DecodeAttentionArgs& args);

}  // namespace tributary
