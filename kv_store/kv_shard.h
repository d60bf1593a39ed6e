// One shard's KV: per (layer, KV head) a stream of tiles of consecutive stripe-local tokens, K and V
// together, in the shard's storage dtypes, in extents of the block pool (kv_store/FORMAT.md states
// the bytes).
//
// All memory is reserved at Open(): storing never fails for lack of room, and what is stored never
// moves nor changes. Each tile has a CRC, by which readers find out whether it still has the bytes that were stored.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/kv_pack.h"
#include "base/mutex.h"
#include "cluster/shard_spec.h"
#include "kv_store/block_pool.h"
#include "kv_store/block_summaries.h"
#include "kv_store/key_codes.h"
#include "kv_store/layer_tokens.h"
#include "kv_store/shard_tiles.h"
#include "kv_store/store_result.h"

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

// Counts for all shards of a store. Any thread may use it.
struct StoreCounters {
  std::atomic<uint64_t> refused_other_content{0};  // calls
  std::atomic<uint64_t> corrupt_tiles{0};          // found, each once
};

// Any thread may store, several at once; what they store is seen by readers whole or not at all (layer_tokens.h).
// Reading takes no lock. One thread, the owner, and those that it waits for, read (RunAt, TileAt, summaries) and check;
// it alone may store into a tile of which tokens are visible.
class KvShard {
 public:
  // INVALID_ARGUMENT (Validate(spec), or a tile larger than an extent), RESOURCE_EXHAUSTED (needed
  // and free bytes). The pool and the counters (may be null) outlive the shard. `pack` writes rows into tiles; a faster
  // one than the plain one comes with the CPU kernels.
  static absl::StatusOr<std::unique_ptr<KvShard>> Open(const ShardSpec& spec, BlockPool* pool,
                                                       KvPackFn pack = &PackKvPlain, StoreCounters* counters = nullptr);
  // Bytes that Open would reserve from a pool with such extents; summaries come on top. INVALID_ARGUMENT as of Open.
  static absl::StatusOr<uint64_t> ReservedBytes(const ShardSpec& spec, size_t extent_bytes);
  KvShard(const KvShard&) = delete;
  KvShard& operator=(const KvShard&) = delete;

  const ShardSpec& spec() const { return spec_; }
  const KvTileLayout& tile_layout() const { return tiles_->layout().tile; }
  uint64_t reserved_bytes() const;

  // ---- storing ----

  // Stores absolute tokens [token_begin, token_begin + num_tokens) of one (absolute) layer, all or nothing.
  // Idempotent: tokens that were stored before must be the same again, in what is stored, not in the dtype of the rows.
  // Order is free: a gap is remembered and closes later. Errors: kOutOfRange, kBadGeometry, kExhausted,
  // kOtherContent, kCorrupt, kBusy; of others than the owner kNeedsOwner.
  StoreResult Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows,
                    Storer storer = Storer::kOwner);

  // What Store() answers without a look at what is stored: kOutOfRange, kBadGeometry; else the stripe-local numbers.
  StoreError CheckCall(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows,
                       TokenRange* local) const;

  // From Hold() to as many EndHold() what is stored does not become visible: not before a sequence is sealed.
  void Hold();
  void EndHold();
  // All that is there without a gap becomes visible, also the tokens of a tile that is not full.
  void Publish();
  // Makes Store() answer kUnknownShard from now on: the shard is closed.
  void RefuseStores() { is_closed_.store(true, std::memory_order_release); }

  // Stripe-local tokens of the (absolute) layer that are there without a gap and visible; 0 for a layer not held.
  uint64_t stored_tokens(uint32_t layer) const;

  // ---- reading ----

  // The longest run of stripe-local tokens [local_begin, x) with x <= local_end that lies in one
  // extent. `layer` is absolute, `kv_head` counts from the first one held. Runs break at the
  // multiples of tokens_per_run(), so work splits at fixed local positions:
  //   for (pos = begin; pos < end; pos += run.num_tokens()) run = RunAt(layer, head, pos, end);
  // REQUIRES (checked): layer and head held, local_begin < local_end <= stored_tokens(layer).
  uint32_t tokens_per_run() const { return tiles_->layout().tokens_per_extent(); }
  KvRun RunAt(uint32_t layer, uint32_t kv_head, uint64_t local_begin, uint64_t local_end) const;

  // The tile of stripe-local tokens [tile * 64, tile * 64 + 64), for readers of single blocks. What
  // lies beyond stored_tokens(layer) is undefined.
  // REQUIRES (checked): layer and head held, a tile of which any token is stored.
  const std::byte* TileAt(uint32_t layer, uint32_t kv_head, uint64_t tile) const;

  // ---- checking ----

  // Tokens of the layer, from 0 on, whose tiles were intact when they were checked, all of them after they were stored.
  // Who reads checks the others first: IntactUpTo() each head's tiles, then SetChecked(). Owner only.
  uint64_t checked_tokens(uint32_t layer) const { return checked_tokens_[layer - spec_.layer_begin]; }
  void SetChecked(uint32_t layer, uint64_t tokens) { checked_tokens_[layer - spec_.layer_begin] = tokens; }
  // The first tile of [tile_begin, tile_end) that no longer has the bytes that were stored is reported; false then.
  // Different threads at once. REQUIRES: layer and head held; tokens of all these tiles are visible.
  bool AreIntact(uint32_t layer, uint32_t kv_head, uint64_t tile_begin, uint64_t tile_end);

  // The layer may not be read from this token on, the first one of the first corrupt tile; ~0 if there is none.
  uint64_t first_corrupt_token(uint32_t layer) const {
    return first_corrupt_token_[layer - spec_.layer_begin].load(std::memory_order_acquire);
  }
  // That tile. Takes a lock.
  std::optional<TilePlace> FirstCorruptTile(uint32_t layer) const;

  // ---- summaries (owner) ----

  // From now on, summaries of the stored keys' blocks are kept, beside those asked for before, for policies that choose
  // blocks: of the tokens that are there without a gap, in the values that attention reads. Their memory is part of
  // reserved_bytes(). FAILED_PRECONDITION if tokens are stored already or these summaries are kept; else errors as of
  // BlockSummaries::Open.
  absl::Status KeepSummaries(const BlockSummaryOptions& options);
  // The same for coarse codes of the keys, for policies that choose single tokens.
  absl::Status KeepCodes(const KeyCodeOptions& options);
  // Summarises and codes what others than the owner have stored; before summaries or codes of the layer are read.
  void UpdateSummaries(uint32_t layer);
  // Null: not kept. A head's stream in them is SummaryStream(layer, kv_head).
  const BlockSummaries* FindSummaries(const BlockSummaryOptions& options) const;
  const KeyCodes* FindCodes(const KeyCodeOptions& options) const;
  // REQUIRES: layer held, kv_head < those held.
  uint64_t SummaryStream(uint32_t layer, uint32_t kv_head) const { return StreamIdx(layer, kv_head); }

 private:
  KvShard(const ShardSpec& spec, BlockPool* pool, std::unique_ptr<ShardTiles> tiles, StoreCounters* counters);
  uint64_t StreamIdx(uint32_t layer, uint32_t kv_head) const {
    return uint64_t{layer - spec_.layer_begin} * spec_.num_kv_heads_held() + kv_head;
  }
  bool HoldsLayer(uint32_t layer) const { return layer >= spec_.layer_begin && layer < spec_.layer_end; }
  bool AreRowsValid(uint32_t num_tokens, const KvExchangeRows& rows) const;
  GivenRows RowsOfHead(const KvExchangeRows& rows, uint32_t kv_head, uint64_t first_token) const;
  StoreResult StoreClaimed(uint32_t layer, const StoreClaim& claim, const KvExchangeRows& rows);
  bool CompareStored(uint32_t layer, const StoreClaim& claim, const KvExchangeRows& rows, StoreResult* result);
  bool CheckTouched(uint32_t layer, const StoreClaim& claim, StoreResult* result);
  bool CheckTile(uint32_t layer, uint32_t kv_head, uint64_t tile, StoreResult* result);
  void ReportCorrupt(const TilePlace& place);
  bool HasSummaries() const { return !summaries_.empty() || !key_codes_.empty(); }
  absl::Status CheckKeeps() const;
  struct KeyBuffers {
    std::vector<float> keys;
    std::vector<float> values;
  };
  void ReadKeys(uint32_t layer, uint32_t kv_head, uint64_t pos, uint32_t count, TokenRange given,
                const KvExchangeRows& rows, KeyBuffers* to) const;
  void Summarise(uint32_t layer, TokenRange added, TokenRange given, const KvExchangeRows& rows);

  const ShardSpec spec_;
  BlockPool* const pool_;
  const std::unique_ptr<ShardTiles> tiles_;
  StoreCounters* const counters_;
  std::atomic<bool> is_closed_{false};
  std::vector<LayerTokens> layers_;       // [layer held], as the two below
  std::vector<uint64_t> checked_tokens_;  // the owner's
  std::vector<std::atomic<uint64_t>> first_corrupt_token_;
  mutable Mutex corrupt_mutex_;
  std::vector<TilePlace> corrupt_ ABSL_GUARDED_BY(corrupt_mutex_);  // the first of them
  std::vector<uint64_t> summarised_tokens_;                         // [layer held]
  std::vector<BlockSummaries> summaries_;
  std::vector<KeyCodes> key_codes_;
};

}  // namespace tributary
