#include "cpu_attention_service/policy/block_choice.h"

#include <algorithm>
#include <limits>

#include "attention/kv/kv_tile_layout.h"
#include "base/check.h"

namespace tributary {
namespace {

// Tokens [begin, end) of a tile.
uint64_t MaskOf(uint64_t begin, uint64_t end) {
  const uint64_t below_end = end >= kKvTileTokens ? ~uint64_t{0} : (uint64_t{1} << end) - 1;
  return below_end & ~((uint64_t{1} << begin) - 1);
}

}  // namespace

BlockRange BlocksOf(TokenRange local, uint32_t block_tokens) {
  if (local.empty()) return {};
  return {static_cast<uint32_t>(local.begin / block_tokens),
          static_cast<uint32_t>((local.end + block_tokens - 1) / block_tokens)};
}

void ScoreBlocks(const BlockSelectionKernel& kernel, const BlockSummaries& summaries, uint64_t stream, TokenRange local,
                 const float* q, uint32_t num_rows, float softmax_scale, std::span<float> scores, uint32_t stride) {
  const uint32_t block_tokens = summaries.options().block_tokens;
  const BlockRange blocks = BlocksOf(local, block_tokens);
  TRIBUTARY_CHECK_LE(blocks.size(), stride);
  TRIBUTARY_CHECK_LE(size_t{num_rows} * stride, scores.size());
  if (blocks.size() == 0) return;
  ScoreBlocksArgs args;
  args.layout = summaries.layout();
  args.q = q;
  args.group_size = num_rows;
  args.softmax_scale = softmax_scale;
  // Records are scored from their beginning: where the range begins inside of one, it goes through `edge`.
  const uint32_t first_record = blocks.begin / kSummaryRecordBlocks * kSummaryRecordBlocks;
  float edge[limits::kMaxGroupSize * kSummaryRecordBlocks];
  for (uint32_t block = first_record; block < blocks.end; block += args.num_blocks) {
    const BlockSummaries::Run run = summaries.RunAt(stream, block, blocks.end);
    args.records = run.records;
    args.num_blocks = run.num_blocks;
    if (block < blocks.begin) {
      args.num_blocks = std::min(run.num_blocks, uint32_t{kSummaryRecordBlocks});
      args.scores = edge;
      args.score_stride = kSummaryRecordBlocks;
      kernel.fns.score_blocks(args);
      const uint32_t skipped = blocks.begin - block;
      for (uint32_t row = 0; row < num_rows; ++row) {
        std::copy_n(edge + row * kSummaryRecordBlocks + skipped, args.num_blocks - skipped,
                    scores.begin() + static_cast<std::ptrdiff_t>(size_t{row} * stride));
      }
      continue;
    }
    args.scores = scores.data() + (block - blocks.begin);
    args.score_stride = stride;
    kernel.fns.score_blocks(args);
  }
  for (uint32_t row = 0; row < num_rows; ++row) {
    float* of_row = scores.data() + size_t{row} * stride;
    if (local.begin % block_tokens != 0) of_row[0] = std::numeric_limits<float>::infinity();
    if (local.end % block_tokens != 0) of_row[blocks.size() - 1] = std::numeric_limits<float>::infinity();
  }
}

void ChosenBlocks::Set(std::span<const std::span<const uint32_t>> chosen, uint32_t block_tokens, TokenRange local) {
  pieces_.clear();
  row_masks_.clear();
  next_.assign(chosen.size(), 0);
  has_.resize(chosen.size());
  while (true) {
    // The lowest block that any row has still to come.
    uint32_t block = std::numeric_limits<uint32_t>::max();
    for (size_t row = 0; row < chosen.size(); ++row) {
      if (next_[row] < chosen[row].size()) block = std::min(block, chosen[row][next_[row]]);
    }
    if (block == std::numeric_limits<uint32_t>::max()) return;
    for (size_t row = 0; row < chosen.size(); ++row) {
      has_[row] = next_[row] < chosen[row].size() && chosen[row][next_[row]] == block ? 1 : 0;
      next_[row] += has_[row];
    }
    AddBlock(block, block_tokens, local, has_);
  }
}

void ChosenBlocks::AddBlock(uint32_t block, uint32_t block_tokens, TokenRange local, std::span<const uint8_t> rows) {
  const TokenRange tokens = Intersect(local, {uint64_t{block} * block_tokens, (uint64_t{block} + 1) * block_tokens});
  for (uint64_t begin = tokens.begin; begin < tokens.end;) {
    const uint64_t tile = begin / kKvTileTokens;
    const uint64_t end = std::min(tokens.end, (tile + 1) * kKvTileTokens);
    const uint64_t mask = MaskOf(begin % kKvTileTokens, end - tile * kKvTileTokens);
    if (pieces_.empty() || pieces_.back().tile != tile) {
      pieces_.push_back({tile, 0});
      row_masks_.resize(row_masks_.size() + rows.size(), 0);
    }
    pieces_.back().token_mask |= mask;
    uint64_t* of_piece = row_masks_.data() + row_masks_.size() - rows.size();
    for (size_t row = 0; row < rows.size(); ++row) of_piece[row] |= rows[row] != 0 ? mask : 0;
    begin = end;
  }
}

}  // namespace tributary
