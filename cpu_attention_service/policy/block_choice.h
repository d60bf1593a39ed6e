// Helps policies that choose blocks of a shard's tokens for each query head: scores blocks by their summaries, and
// makes what was chosen into pieces to read. The choice itself is the policy's, with the selections of
// cpu_attention_service/kernels/selection/block_selection.h.
//
// A block that is not whole inside the visible range is taken by every row, whatever its summary says: that may hold
// tokens that came meanwhile, and what is read may not depend on when a token came.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/token_range.h"
#include "cpu_attention_service/executor/head_read.h"
#include "cpu_attention_service/kernels/selection/block_selection.h"
#include "kv_store/block_summaries.h"

namespace tributary {

// Blocks that have any token of `local`: [begin, end).
struct BlockRange {
  uint32_t begin = 0;
  uint32_t end = 0;

  uint32_t size() const { return end - begin; }
};
BlockRange BlocksOf(TokenRange local, uint32_t block_tokens);

// Scores of the blocks of `local` for the query rows of one KV head: q is f32 [num_rows][head_dim], scores
// [num_rows][stride], of which the blocks' are written, from index 0 on. +inf for blocks that are not whole in `local`.
// Allocates nothing. REQUIRES: num_rows <= limits::kMaxGroupSize; stride >= BlocksOf().size(); all tokens of `local`
// have been summarised.
void ScoreBlocks(const BlockSelectionKernel& kernel, const BlockSummaries& summaries, uint64_t stream, TokenRange local,
                 const float* q, uint32_t num_rows, float softmax_scale, std::span<float> scores, uint32_t stride);

// The pieces of blocks that several rows have chosen, each row its own. Its memory is kept for the next query.
class ChosenBlocks {
 public:
  // `chosen`: of each row its blocks, ascending. Only tokens of `local` are read.
  void Set(std::span<const std::span<const uint32_t>> chosen, uint32_t block_tokens, TokenRange local);
  // The rows are those of the query: [n_q][group_size].
  PieceList list() const { return {pieces_, row_masks_}; }

 private:
  void AddBlock(uint32_t block, uint32_t block_tokens, TokenRange local, std::span<const uint8_t> rows);

  std::vector<ReadPiece> pieces_;
  std::vector<uint64_t> row_masks_;  // [piece][row]
  std::vector<size_t> next_;         // of each row
  std::vector<uint8_t> has_;
};

}  // namespace tributary
