// One shard's KV: per (layer, KV head) a stream of tiles of consecutive stripe-local tokens, K and V
// together, in the shard's storage dtypes, in extents of the block pool (kv_store/FORMAT.md states
// the bytes).
//
// All memory is reserved at Open(): storing never fails for lack of room, and what is stored never
// moves.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/kv_pack.h"
#include "cluster/shard_spec.h"
#include "kv_store/block_pool.h"
#include "kv_store/block_summaries.h"
#include "kv_store/block_table.h"
#include "kv_store/stored_ranges.h"
#include "wire/frame.h"

namespace tributary {

// Rows of consecutive tokens of one layer in the exchange layout, [token][kv_head held][head_dim],
// unaligned. Exchange dtypes: f32, bf16, f16; the shard converts and quantises.
struct KvExchangeRows {
  std::span<const std::byte> k;
  std::span<const std::byte> v;
  DType k_dtype = DType::kUnset;
  DType v_dtype = DType::kUnset;
};

// Tokens [token_begin, token_end), counted from token 0 of the tile at `tiles`, of which all tiles
// lie one after the other. That token 0 has the stripe-local number `first_token`.
struct KvRun {
  const std::byte* tiles = nullptr;
  uint64_t first_token = 0;
  uint32_t token_begin = 0;
  uint32_t token_end = 0;

  uint32_t num_tokens() const { return token_end - token_begin; }
};

// Thread-compatible; concurrent reads (RunAt, TileAt, stored_tokens) are safe while nobody stores.
class KvShard {
 public:
  // INVALID_ARGUMENT (Validate(spec), or a tile larger than an extent), RESOURCE_EXHAUSTED (needed
  // and free bytes). The pool outlives the shard. `pack` writes rows into tiles; a faster one than
  // the plain one comes with the CPU kernels.
  static absl::StatusOr<std::unique_ptr<KvShard>> Open(const ShardSpec& spec, BlockPool* pool,
                                                       KvPackFn pack = &PackKvPlain);
  // Bytes that Open would reserve from a pool with such extents; summaries come on top. INVALID_ARGUMENT as of Open.
  static absl::StatusOr<uint64_t> ReservedBytes(const ShardSpec& spec, size_t extent_bytes);
  ~KvShard();  // gives the extents back
  KvShard(const KvShard&) = delete;
  KvShard& operator=(const KvShard&) = delete;

  const ShardSpec& spec() const { return spec_; }
  const KvTileLayout& tile_layout() const { return table_.layout().tile; }
  uint64_t reserved_bytes() const;

  // Stores absolute tokens [token_begin, token_begin + num_tokens) of one (absolute) layer.
  // Idempotent: tokens stored before are skipped. Order is free: a gap is remembered and closes
  // later. Errors, which store nothing: kOutOfRange (layer, no tokens, more than one run of the
  // stripe, capacity), kBadGeometry (dtypes, span sizes), kExhausted (too many gaps: send again when
  // earlier tokens are acknowledged).
  FrameError Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows);

  // Stripe-local tokens of the (absolute) layer that are there without a gap; 0 for a layer not
  // held.
  uint64_t stored_tokens(uint32_t layer) const;

  // The longest run of stripe-local tokens [local_begin, x) with x <= local_end that lies in one
  // extent. `layer` is absolute, `kv_head` counts from the first one held. Runs break at the
  // multiples of tokens_per_run(), so work splits at fixed local positions:
  //   for (pos = begin; pos < end; pos += run.num_tokens()) run = RunAt(layer, head, pos, end);
  // REQUIRES (checked): layer and head held, local_begin < local_end <= stored_tokens(layer).
  uint32_t tokens_per_run() const { return table_.layout().tokens_per_extent(); }
  KvRun RunAt(uint32_t layer, uint32_t kv_head, uint64_t local_begin, uint64_t local_end) const;

  // The tile of stripe-local tokens [tile * 64, tile * 64 + 64), for readers of single blocks. What
  // lies beyond stored_tokens(layer) is undefined.
  // REQUIRES (checked): layer and head held, a tile of which any token is stored.
  const std::byte* TileAt(uint32_t layer, uint32_t kv_head, uint64_t tile) const;

  // From now on, summaries of the stored keys' blocks are kept, beside those asked for before, for policies that choose
  // blocks: of the tokens that are there without a gap, in the values that attention reads. Their memory is part of
  // reserved_bytes(). FAILED_PRECONDITION if tokens are stored already or these summaries are kept; else errors as of
  // BlockSummaries::Open.
  absl::Status KeepSummaries(const BlockSummaryOptions& options);
  // Null: not kept. A head's stream in them is SummaryStream(layer, kv_head).
  const BlockSummaries* FindSummaries(const BlockSummaryOptions& options) const;
  // REQUIRES: layer held, kv_head < those held.
  uint64_t SummaryStream(uint32_t layer, uint32_t kv_head) const { return StreamIdx(layer, kv_head); }

 private:
  KvShard(const ShardSpec& spec, BlockPool* pool, KvPackFn pack, BlockTable table);
  uint64_t StreamIdx(uint32_t layer, uint32_t kv_head) const {
    return uint64_t{layer - spec_.layer_begin} * spec_.num_kv_heads_held() + kv_head;
  }
  bool HoldsLayer(uint32_t layer) const { return layer >= spec_.layer_begin && layer < spec_.layer_end; }
  std::byte* Tile(uint32_t layer, uint32_t kv_head, uint64_t tile) const {
    const BlockTable::Place place = table_.Tile(StreamIdx(layer, kv_head), tile);
    return pool_->data(place.extent) + place.offset_bytes;
  }
  bool AreRowsValid(uint32_t num_tokens, const KvExchangeRows& rows) const;
  void StoreMissing(uint32_t layer, TokenRange local, TokenRange given, const KvExchangeRows& rows);
  void ClearNewTiles(uint32_t layer, TokenRange local);
  void Summarise(uint32_t layer, TokenRange added, TokenRange given, const KvExchangeRows& rows);

  const ShardSpec spec_;
  BlockPool* const pool_;
  const KvPackFn pack_;
  const BlockTable table_;
  std::vector<StoredRanges> layers_;  // [layer held]
  // [layer held][tile]: something is in it. The memory may be another shard's of old, so that a tile
  // is cleared before its first tokens: kernels mask what is not stored, but 0 x NaN is NaN.
  std::vector<std::vector<bool>> has_tokens_;
  std::vector<BlockSummaries> summaries_;
};

}  // namespace tributary
