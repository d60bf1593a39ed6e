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

namespace tributary {

// A contiguous run of rows: `num_tokens` K rows at `k` and V rows at `v`, each head_dim elements.
struct KvRun {
  const std::byte* k = nullptr;
  const std::byte* v = nullptr;
  uint32_t num_tokens = 0;
};

// Thread-compatible; concurrent reads (Run, stored_tokens) are safe while nobody stores.
class KvShard {
 public:
  // INVALID_ARGUMENT (Validate(spec), or a row longer than an extent), RESOURCE_EXHAUSTED (needed
  // and free bytes).
  static absl::StatusOr<std::unique_ptr<KvShard>> Open(const ShardSpec& spec, BlockPool* pool);
  // Bytes that Open would reserve from a pool with such extents.
  static uint64_t ReservedBytes(const ShardSpec& spec, size_t extent_bytes);
  ~KvShard();  // gives the extents back
  KvShard(const KvShard&) = delete;
  KvShard& operator=(const KvShard&) = delete;

  const ShardSpec& spec() const { return spec_; }
  uint64_t reserved_bytes() const;

  // Stores absolute tokens [token_begin, token_begin + num_tokens) of one (absolute) layer from the
  // canonical layout [token][kv_head held][head_dim]. Idempotent: tokens stored before are skipped.
  // Order is free: a gap is remembered and closes later. Errors: kOutOfRange (layer, stripe run,
  // capacity), kBadGeometry (span sizes), kExhausted (too many gaps).
  FrameError Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens,
                   std::span<const std::byte> k, std::span<const std::byte> v);

  // Stripe-local tokens of the layer that are there without a gap.
  uint64_t stored_tokens(uint32_t layer) const;

  // Runs of one head's tokens, for stripe-local [begin, end). REQUIRES: end <=
  // stored_tokens(layer). Run i is the i-th extent touched; tokens_per_run() is the same for all
  // but the cut ends, so that work splits at fixed local positions.
  uint32_t tokens_per_run() const { return tokens_per_extent_; }
  KvRun RunAt(uint32_t layer, uint32_t kv_head, uint64_t local_begin, uint64_t local_end) const;

 private:
  struct LayerState;
  KvShard(const ShardSpec& spec, BlockPool* pool);

  ShardSpec spec_;
  BlockPool* pool_;
  uint32_t tokens_per_extent_ = 0;
  std::vector<LayerState> layers_;
  std::vector<ExtentId> extents_;  // [layer][kv_head][K, V][extent]
};

}  // namespace tributary
