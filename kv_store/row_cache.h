// Rows of chosen tokens of one shard: per (layer, KV head) the K and V of some tokens, copied bit for bit out of the
// shard into tiles of their own, so that a kernel reads them as one run.
//
// A cache knows rows, not tokens: which token row i is, is the business of who chose it. All memory is reserved at
// Open(), in extents of the pool of the shards.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "cluster/shard_spec.h"
#include "kv_store/block_pool.h"
#include "kv_store/block_table.h"
#include "kv_store/kv_shard.h"

namespace tributary {

struct RowCacheOptions {
  uint64_t capacity_rows = 0;  // of each (layer, KV head) that has rows, at most the shard's capacity
  // [layer held][KV head held]: 1 where rows are kept; empty: everywhere.
  std::vector<uint8_t> has_rows;
};

// Thread-compatible; concurrent reads (RunAt, num_rows) are safe while nobody writes.
class RowCache {
 public:
  // Null if no rows are to be kept (no capacity, or nowhere). INVALID_ARGUMENT: the spec, or options that do not fit
  // it; RESOURCE_EXHAUSTED as of KvShard::Open. The pool outlives the cache.
  static absl::StatusOr<std::unique_ptr<RowCache>> Open(const ShardSpec& spec, const RowCacheOptions& options,
                                                        BlockPool* pool);
  // Bytes that Open would reserve from a pool with such extents. INVALID_ARGUMENT as of Open.
  static absl::StatusOr<uint64_t> ReservedBytes(const ShardSpec& spec, const RowCacheOptions& options,
                                                size_t extent_bytes);
  ~RowCache();  // gives the extents back
  RowCache(const RowCache&) = delete;
  RowCache& operator=(const RowCache&) = delete;

  uint64_t reserved_bytes() const { return table_.extents().size() * pool_->extent_bytes(); }
  const KvTileLayout& tile_layout() const { return table_.layout().tile; }
  uint64_t capacity_rows() const { return capacity_rows_; }
  uint64_t filled_bytes() const;

  // `layer` is absolute, `kv_head` counts from the first one held, everywhere; REQUIRES (checked): held, and
  // with rows by the options (Has).
  bool Has(uint32_t layer, uint32_t kv_head) const;
  uint64_t num_rows(uint32_t layer, uint32_t kv_head) const { return rows_[StreamOf(layer, kv_head)]; }
  // Adds rows: the shard's stripe-local `tokens`, in this order. REQUIRES (checked): stored tokens of the shard that
  // the cache was opened for, room for them.
  void Append(const KvShard& shard, uint32_t layer, uint32_t kv_head, std::span<const uint32_t> tokens);
  // Row i becomes what was row rows[i]; the others are gone. REQUIRES (checked): ascending, in range.
  void Keep(uint32_t layer, uint32_t kv_head, std::span<const uint32_t> rows);
  void Clear(uint32_t layer, uint32_t kv_head) { rows_[StreamOf(layer, kv_head)] = 0; }

  // These are as those of KvShard, with rows for tokens.
  uint32_t rows_per_run() const { return table_.layout().tokens_per_extent(); }
  KvRun RunAt(uint32_t layer, uint32_t kv_head, uint64_t row_begin, uint64_t row_end) const;

 private:
  // Those of the heads held that have rows get a stream, in the order of layers and heads.
  struct Plan {
    ShardLayout layout;
    std::vector<uint32_t> stream_of;  // [layer held][KV head held]; kNoStream
  };
  static constexpr uint32_t kNoStream = ~uint32_t{0};
  static absl::StatusOr<std::optional<Plan>> Make(const ShardSpec& spec, const RowCacheOptions& options,
                                                  size_t extent_bytes);

  RowCache(const ShardSpec& spec, uint64_t capacity_rows, BlockPool* pool, Plan plan, std::vector<ExtentId> extents);
  uint32_t StreamOf(uint32_t layer, uint32_t kv_head) const;
  std::byte* Tile(uint32_t stream, uint64_t tile) const;

  const ShardSpec spec_;
  const uint64_t capacity_rows_;
  BlockPool* const pool_;
  const BlockTable table_;
  const std::vector<uint32_t> stream_of_;
  std::vector<uint64_t> rows_;  // [stream]
};

}  // namespace tributary
