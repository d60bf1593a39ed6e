// Which blocks the query heads of one KV head read at one query: their bounds, the choice among them, and the pieces
// that come of it. A block that is not whole inside the visible range is always read (block_choice.h), beside those.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "cpu_attention_service/policy/block_choice.h"
#include "policy/fluxion/head_budget.h"

namespace tributary {

// Where blocks are scored.
struct BlockQuery {
  const BlockSummaries* summaries = nullptr;
  uint64_t stream = 0;
  TokenRange local;
  std::span<const float> q;  // [group_size][head_dim]
  float softmax_scale = 0;
  // A block's score is q.centre + spread q.extent of the box that its minima and maxima span, [0, 1]. 1: the bound on
  // q.k, as Quest has it. Less says better how much a block holds, since no key lies in the corner.
  float spread = 1;
};

// Its memory is one block size's after the other. Thread-compatible.
class HeadChoice {
 public:
  // `max_blocks`: that a shard may have, of the smallest size.
  HeadChoice(const BlockSelectionKernel* kernel, uint32_t group_size, uint32_t max_blocks);

  // Scores the visible blocks for all rows, and forgets what was chosen. With a spread below 1 it reads the summaries
  // twice, for q and for -q. All tokens of `local` have been summarised.
  void Score(const BlockQuery& query);

  // In place of Score() where no row reads a whole block: what is not whole is chosen for all rows, without a look at
  // the summaries.
  void ChooseNothingWhole(const BlockQuery& query);

  uint32_t num_blocks() const { return blocks_.size(); }
  uint32_t num_whole_blocks() const { return blocks_.size() - num_ragged_; }
  // Over the row's whole blocks; NaN if a score is. An O(blocks) exponential.
  BlockBounds Bounds(uint32_t row);

  // Each chooses for one row. Of `k` whole blocks the best, or all if there are not more.
  void ChooseBest(uint32_t row, uint32_t k);
  // REQUIRES: Bounds(row) was the last call for any row.
  void ChooseByRule(uint32_t row, const BlockRule& rule);
  // Relative to the first visible block, ascending.
  std::span<const uint32_t> chosen(uint32_t row) const { return std::span(Ids(row), num_chosen_[row]); }
  // [block], from the first visible one on; +inf: not whole.
  std::span<const float> scores(uint32_t row) const { return {scores_.data() + size_t{row} * stride_, num_blocks()}; }

  // What the rows have chosen: pieces, each row's own, which live until the next Score(); or everything visible, for
  // all rows, where together they chose every block: it is read anyway. Allocates only when there are more pieces than
  // ever before.
  HeadRead Read();
  // Tokens of the union of the rows' blocks.
  uint64_t UnionTokens();

 private:
  // Of the blocks that the query sees, none chosen.
  void Begin(const BlockQuery& query);
  // scores_ of the bounds become those of the spread.
  void Narrow(const BlockQuery& query);
  uint32_t* Ids(uint32_t row) { return ids_.data() + size_t{row} * (stride_ + kSelectSlack); }
  const uint32_t* Ids(uint32_t row) const { return ids_.data() + size_t{row} * (stride_ + kSelectSlack); }
  void SetPieces();

  const BlockSelectionKernel* const kernel_;
  const uint32_t group_size_;
  const uint32_t stride_;
  TokenRange local_;
  uint32_t block_tokens_ = 0;
  BlockRange blocks_;
  uint32_t num_ragged_ = 0;
  std::vector<float> scores_;      // [row][stride]
  std::vector<float> low_scores_;  // likewise, of -q
  std::vector<float> minus_q_;     // [row][head_dim]
  std::vector<float> weights_;     // [block] of the last Bounds(): exp(score - largest); +inf: not whole
  AlignedBuffer<uint32_t> fixed_;  // scratch of SelectTopPFn
  std::vector<uint32_t> ids_;      // [row][stride + kSelectSlack]
  std::vector<uint32_t> num_chosen_;
  std::vector<std::vector<uint32_t>> absolute_;  // [row]: the chosen blocks, by number in the shard
  std::vector<std::span<const uint32_t>> rows_;
  ChosenBlocks pieces_;
};

}  // namespace tributary
