// Summaries of the blocks of a shard's key streams (attention/kv/block_summary_layout.h), kept up to date as tokens are
// appended: what sparse policies score instead of reading the keys. A shard may keep several, of different block sizes.
//
// For 32-token blocks of 128 dims in bf16, int8 means add 0.8 % to the memory of K and V; bf16 minima and maxima 3.1 %.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/block_summary_layout.h"
#include "attention/kv/block_summary_options.h"
#include "kv_store/stream_records.h"

namespace tributary {

// What is summarised: `num_streams` (layer, KV head) pairs of up to `capacity_tokens` tokens each.
struct SummarisedKeys {
  uint32_t head_dim = 0;
  uint64_t num_streams = 0;
  uint64_t capacity_tokens = 0;
};

// The records of summaries are reserved by Open, in extents of the pool of the shards. Thread-compatible; concurrent
// reads are safe while nobody appends.
class BlockSummaries {
 public:
  // INVALID_ARGUMENT (options, geometry, a record larger than an extent), RESOURCE_EXHAUSTED (needed and free bytes).
  static absl::StatusOr<BlockSummaries> Open(const BlockSummaryOptions& options, const SummarisedKeys& keys,
                                             BlockPool* pool);
  // Bytes that Open would reserve from a pool with such extents. INVALID_ARGUMENT as of Open.
  static absl::StatusOr<uint64_t> ReservedBytes(const BlockSummaryOptions& options, const SummarisedKeys& keys,
                                                size_t extent_bytes);

  // Adds the stream's next tokens: row i at keys + i * row_stride, head_dim floats, post-RoPE. Afterwards every block
  // that has a token has a summary of the tokens that it has. The bytes do not depend on how the tokens were cut into
  // calls. REQUIRES (checked): room, stream < num_streams.
  void Append(uint64_t stream, const float* keys, size_t row_stride, uint64_t num_tokens);

  const BlockSummaryOptions& options() const { return options_; }
  const BlockSummaryLayout& layout() const { return layout_; }
  uint64_t num_tokens(uint64_t stream) const { return streams_[stream].num_tokens; }
  uint32_t num_blocks(uint64_t stream) const;
  uint64_t reserved_bytes() const { return records_.reserved_bytes(); }

  // Blocks [block_begin, x) with x <= block_end whose records lie one behind the other: what one ScoreBlocksArgs takes.
  //   for (block = 0; block < end; block += run.num_blocks) run = summaries.RunAt(stream, block, end);
  // REQUIRES (checked): block_begin a multiple of kSummaryRecordBlocks, block_begin < block_end <= num_blocks(stream).
  struct Run {
    const std::byte* records = nullptr;  // aligned to 64
    uint32_t num_blocks = 0;
  };
  Run RunAt(uint64_t stream, uint32_t block_begin, uint32_t block_end) const;

 private:
  // What a block in the making needs: of a stream's last block.
  struct Stream {
    uint64_t num_tokens = 0;
    std::vector<float> sum_or_max;  // [head_dim]
    std::vector<float> min;         // [head_dim], kMinMax only
  };
  BlockSummaries(const BlockSummaryOptions& options, const SummarisedKeys& keys, StreamRecords records);
  void AddToBlock(Stream& stream, const float* key, bool is_first);
  void WriteBlock(uint64_t stream_idx);

  BlockSummaryOptions options_;
  BlockSummaryLayout layout_;
  StreamRecords records_;
  std::vector<Stream> streams_;
};

// Writes one block's summary into its record. `rows` has layout.rows values, of which those beyond head_dim in each
// half are 0. int8 rounds means to nearest, and maxima up and minima down, so that they stay bounds.
void StoreBlockSummary(const BlockSummaryLayout& layout, const float* rows, uint32_t block, std::byte* record);

}  // namespace tributary
