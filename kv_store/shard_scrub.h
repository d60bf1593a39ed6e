// Reads all stored tiles again and again, in small slices, and checks them against their CRCs: memory that has gone bad
// is found before it is needed, and in tiles that are read through their summaries or not at all.
//
// Runs on the owner's thread when that has nothing else to do. What it finds is reported to the shard (KvShard), whose
// queries are then refused.
#pragma once

#include <cstdint>
#include <memory>

#include "kv_store/shard_store.h"

namespace tributary {

struct ShardScrubOptions {
  uint64_t bytes_per_second = 64u << 20;  // at most; 0: never
  uint64_t slice_bytes = 64u << 10;       // at most in one call, but at least one tile
};

// Since the start.
struct ScrubProgress {
  uint64_t checked_bytes = 0;
  uint64_t checked_tiles = 0;
  uint64_t num_passes = 0;  // over all shards
};

// Thread-compatible: the store's owner runs it.
class ShardScrub {
 public:
  // The store outlives it.
  ShardScrub(ShardStore* store, const ShardScrubOptions& options) : store_(store), options_(options) {}

  // Checks the next slice, if the rate allows one at this time (monotonic). Returns the bytes checked.
  uint64_t RunSlice(int64_t now_ns);

  const ScrubProgress& progress() const { return progress_; }
  // The share of the shards' streams, 0 to 1, that the pass under way is done with; streams count alike.
  double pass_share() const;

 private:
  // The next tile to check.
  struct Cursor {
    ShardId shard;
    uint64_t stream = 0;  // (layer, KV head) held
    uint64_t tile = 0;
  };
  KvShard* ShardAtCursor();
  uint64_t CheckAtCursor(KvShard& shard, uint64_t max_bytes);

  ShardStore* const store_;
  const ShardScrubOptions options_;
  ScrubProgress progress_;
  Cursor cursor_;
  int64_t next_slice_ns_ = 0;
};

}  // namespace tributary
