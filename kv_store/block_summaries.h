// Summaries of the blocks of a shard's key streams (attention/kv/block_summary_layout.h), kept up to date as tokens are
// appended: what sparse policies score instead of reading the keys. A stream's summaries are contiguous, so that
// scoring streams through them.
//
// For 32-token blocks of 128 dims in bf16, int8 means add 0.8 % to the memory of K and V; bf16 minima and maxima 3.1 %.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/block_summary_layout.h"
#include "kv_store/arena.h"

namespace tributary {

struct BlockSummaryOptions {
  SummaryKind kind = SummaryKind::kMean;
  SummaryStorage storage = SummaryStorage::kInt8;
  uint32_t block_tokens = 32;  // 16, 32, 64 or 128
};

// All memory is reserved by Create. Thread-compatible; concurrent reads are safe while nobody appends.
class BlockSummaries {
 public:
  // `num_streams` (layer, KV head) pairs of up to `capacity_tokens` tokens each. INVALID_ARGUMENT (options, geometry),
  // RESOURCE_EXHAUSTED (needed and available bytes).
  static absl::StatusOr<BlockSummaries> Create(const BlockSummaryOptions& options, uint32_t head_dim,
                                               uint64_t num_streams, uint64_t capacity_tokens);
  static uint64_t ReservedBytes(const BlockSummaryOptions& options, uint32_t head_dim, uint64_t num_streams,
                                uint64_t capacity_tokens);

  // Adds the stream's next tokens: row i at keys + i * row_stride, head_dim floats, post-RoPE. Afterwards every block
  // that has a token has a summary of the tokens that it has. The bytes do not depend on how the tokens were cut into
  // calls. REQUIRES (checked): room, stream < num_streams.
  void Append(uint64_t stream, const float* keys, size_t row_stride, uint64_t num_tokens);

  const BlockSummaryOptions& options() const { return options_; }
  const BlockSummaryLayout& layout() const { return layout_; }
  uint64_t num_tokens(uint64_t stream) const { return streams_[stream].num_tokens; }
  uint32_t num_blocks(uint64_t stream) const;
  // The records of the stream's blocks, aligned to 64: what ScoreBlocksArgs::records wants.
  const std::byte* Records(uint64_t stream) const;

 private:
  // What a block in the making needs: of a stream's last block.
  struct Stream {
    uint64_t num_tokens = 0;
    std::vector<float> sum_or_max;  // [head_dim]
    std::vector<float> min;         // [head_dim], kMinMax only
  };
  BlockSummaries(const BlockSummaryOptions& options, uint32_t head_dim, uint64_t num_streams, uint64_t stream_bytes,
                 Arena arena);
  void AddToBlock(Stream& stream, const float* key, bool is_first);
  void WriteBlock(uint64_t stream_idx);

  BlockSummaryOptions options_;
  BlockSummaryLayout layout_;
  uint64_t stream_bytes_ = 0;
  Arena arena_;
  std::vector<Stream> streams_;
};

// Writes one block's summary into its record. `rows` has layout.rows values, of which those beyond head_dim in each
// half are 0. int8 rounds means to nearest, and maxima up and minima down, so that they stay bounds.
void StoreBlockSummary(const BlockSummaryLayout& layout, const float* rows, uint32_t block, std::byte* record);

}  // namespace tributary
