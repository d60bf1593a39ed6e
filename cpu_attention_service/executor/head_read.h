// What one KV head of a query reads: a sum of sources, each a set of the shard's tokens.
//
//   tokens    a run of the shard's tokens
//   rows      rows of a row cache: copies of tokens, packed (kv_store/row_cache.h)
//   pieces    blocks or single tokens wherever they lie in the shard, each for some of the group's query heads
//   weighted  tokens whose weights are given, so that their keys are not read
//
// The head's partial is the merge (attention/merge.h) of the partials of its sources: in this order, and of a source in
// the order of its runs or pieces. The sources are disjoint, or a token counts twice. A head that reads nothing has the
// empty partial.
//
// All memory is borrowed.
#pragma once

#include <cstdint>
#include <span>

#include "attention/token_range.h"

namespace tributary {

// Tokens of one tile: a block of 16, 32 or 64 tokens, half of one of 128, or single tokens.
struct ReadPiece {
  uint64_t tile = 0;        // of the shard: stripe-local tokens from tile * 64 on
  uint64_t token_mask = 0;  // bit t: token tile * 64 + t; all stored and inside the query's `local`
};

// Tokens that the pieces have, together.
uint64_t CountTokens(std::span<const ReadPiece> pieces);

struct PieceList {
  std::span<const ReadPiece> pieces;  // disjoint; best in ascending order
  // [piece][n_q][group_size]: the tokens of the piece that each query head sees, some of token_mask. Empty: all of them
  // see all. A head that sees nothing of any piece has the empty partial.
  std::span<const uint64_t> row_masks;
};

// For query head h, and tokens t of the pieces with the weights w[h][t]:
//   out    = sum_t w[h][t] v_t / sum_t w[h][t]
//   lse_ln = log_scale_ln[h] + ln sum_t w[h][t]
// So w[h][t] exp(log_scale_ln[h]) stands for exp(score), and the partial merges with those of other tokens as if the
// scores had been computed here. Weights that are all 0 make the empty partial.
struct WeightedTokens {
  std::span<const ReadPiece> pieces;  // disjoint; best in ascending order
  // [n_q][group_size][token of the pieces, in their order, of a piece ascending]; in [0, 1], less than 2^-100 may count
  // as 0. NaN makes the head's partial NaN. A weight of 0 keeps no NaN of the token's value away.
  std::span<const float> weights;
  std::span<const float> log_scale_ln;  // [n_q][group_size], finite; empty: all 0
};

struct HeadRead {
  TokenRange tokens;  // stripe-local, inside the query's `local`
  TokenRange rows;    // of the query's `cache`
  PieceList pieces;
  WeightedTokens weighted;
  // If not empty, ShardExecutor::AddWeights() adds the softmax weight of each token read, aggregated over the head's
  // group and summed over the query tokens: of `tokens`, then of `rows`. Of these alone: there are no pieces and no
  // weighted tokens then. Unshared.
  std::span<float> weights;
  // The head's part of the partial stays as it is.
  bool is_untouched = false;

  bool IsEmpty() const { return tokens.empty() && rows.empty() && pieces.pieces.empty() && weighted.pieces.empty(); }
  // Tokens that the partial rests on: of pieces those that any head sees, or might.
  uint64_t NumTokens() const {
    return tokens.size() + rows.size() + CountTokens(pieces.pieces) + CountTokens(weighted.pieces);
  }
};

}  // namespace tributary
