// One shard's KV: per (layer, KV head) a K stream and a V stream of consecutive stripe-local
// tokens, rows of head_dim elements in the storage dtype, in extents of the block pool
// (kv_store/FORMAT.md states the bytes).
//
// All memory is reserved at Open(): storing never fails for lack of room.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/frame.h"
#include "attention/shard_spec.h"
#include "kv_store/block_pool.h"
#include "kv_store/block_table.h"
#include "kv_store/stored_ranges.h"

namespace tributary {

// A contiguous run of rows: `num_tokens` K rows at `k` and V rows at `v`, each head_dim elements.
struct KvRun {
  const std::byte* k = nullptr;
  const std::byte* v = nullptr;
  uint32_t num_tokens = 0;
};

// Thread-compatible; concurrent reads (RunAt, stored_tokens) are safe while nobody stores.
class KvShard {
 public:
  // INVALID_ARGUMENT (Validate(spec), or a row longer than an extent), RESOURCE_EXHAUSTED (needed
  // and free bytes). The pool outlives the shard.
  static absl::StatusOr<std::unique_ptr<KvShard>> Open(const ShardSpec& spec, BlockPool* pool);
  // Bytes that Open would reserve from a pool with such extents. REQUIRES: Open would not answer
  // INVALID_ARGUMENT (checked).
  static uint64_t ReservedBytes(const ShardSpec& spec, size_t extent_bytes);
  ~KvShard();  // gives the extents back
  KvShard(const KvShard&) = delete;
  KvShard& operator=(const KvShard&) = delete;

  const ShardSpec& spec() const { return spec_; }
  uint64_t reserved_bytes() const { return table_.extents().size() * pool_->extent_bytes(); }

  // Stores absolute tokens [token_begin, token_begin + num_tokens) of one (absolute) layer from the
  // canonical layout [token][kv_head held][head_dim]. Idempotent: tokens stored before are skipped.
  // Order is free: a gap is remembered and closes later. Errors, which store nothing: kOutOfRange
  // (layer, no tokens, more than one run of the stripe, capacity), kBadGeometry (span sizes),
  // kExhausted (too many gaps: send again when earlier tokens are acknowledged).
  FrameError Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens,
                   std::span<const std::byte> k, std::span<const std::byte> v);

  // Stripe-local tokens of the (absolute) layer that are there without a gap; 0 for a layer not
  // held.
  uint64_t stored_tokens(uint32_t layer) const;

  // The longest run of stripe-local tokens [local_begin, x) with x <= local_end that lies in one
  // piece. `layer` is absolute, `kv_head` counts from the first one held. Runs break at the
  // multiples of tokens_per_run(), so work splits at fixed local positions:
  //   for (pos = begin; pos < end; pos += run.num_tokens) run = RunAt(layer, head, pos, end);
  // REQUIRES (checked): layer and head held, local_begin < local_end <= stored_tokens(layer).
  uint32_t tokens_per_run() const { return table_.layout().tokens_per_run; }
  KvRun RunAt(uint32_t layer, uint32_t kv_head, uint64_t local_begin, uint64_t local_end) const;

 private:
  KvShard(const ShardSpec& spec, BlockPool* pool, BlockTable table);
  uint64_t StreamIdx(uint32_t layer, uint32_t kv_head) const {
    return uint64_t{layer - spec_.layer_begin} * spec_.num_kv_heads_held() + kv_head;
  }
  bool HoldsLayer(uint32_t layer) const {
    return layer >= spec_.layer_begin && layer < spec_.layer_end;
  }
  void CopyRows(uint32_t layer, TokenRange local, const std::byte* k, const std::byte* v);

  const ShardSpec spec_;
  BlockPool* const pool_;
  const BlockTable table_;
  std::vector<StoredRanges> layers_;  // [layer held]
};

}  // namespace tributary
