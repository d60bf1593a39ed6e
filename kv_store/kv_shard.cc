#include "kv_store/kv_shard.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"
#include "kv_store/row_packer.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<KvShard>> KvShard::Open(const ShardSpec& spec, BlockPool* pool,
                                                       KvPackFn pack) {
  TRIBUTARY_ASSIGN_OR_RETURN(const ShardLayout layout,
                             ShardLayout::Make(spec, pool->extent_bytes()));
  const uint64_t num_extents = layout.num_extents();
  if (num_extents > pool->num_free()) {
    return absl::ResourceExhaustedError(fmt::format(
        "shard {} of sequence {}: {} bytes needed, {} free of {} in the KV pool; wait until other "
        "sequences end, or give the node a larger pool",
        spec.shard_id.value, spec.sequence_id.value, num_extents * pool->extent_bytes(),
        pool->free_bytes(), pool->capacity_bytes()));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(std::vector<ExtentId> extents,
                             pool->Acquire(static_cast<uint32_t>(layout.num_streams),
                                           static_cast<uint32_t>(layout.extents_per_stream)));
  return std::unique_ptr<KvShard>(
      new KvShard(spec, pool, pack, BlockTable(layout, std::move(extents))));
}

absl::StatusOr<uint64_t> KvShard::ReservedBytes(const ShardSpec& spec, size_t extent_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(const ShardLayout layout, ShardLayout::Make(spec, extent_bytes));
  return layout.num_extents() * extent_bytes;
}

KvShard::KvShard(const ShardSpec& spec, BlockPool* pool, KvPackFn pack, BlockTable table)
    : spec_(spec),
      pool_(pool),
      pack_(pack),
      table_(std::move(table)),
      layers_(spec.num_layers_held()),
      has_tokens_(spec.num_layers_held(), std::vector<bool>(KvTilesFor(spec.capacity_tokens))) {}

KvShard::~KvShard() { pool_->Release(table_.extents()); }

bool KvShard::AreRowsValid(uint32_t num_tokens, const KvExchangeRows& rows) const {
  const uint64_t elements = uint64_t{num_tokens} * spec_.num_kv_heads_held() * spec_.model.head_dim;
  return IsValidDType(rows.k_dtype) && IsValidDType(rows.v_dtype) &&
         rows.k.size() == elements * DTypeBytes(rows.k_dtype) &&
         rows.v.size() == elements * DTypeBytes(rows.v_dtype);
}

FrameError KvShard::Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens,
                          const KvExchangeRows& rows) {
  if (!HoldsLayer(layer) || num_tokens == 0) return FrameError::kOutOfRange;
  if (!AreRowsValid(num_tokens, rows)) return FrameError::kBadGeometry;
  const TokenStripe& stripe = spec_.stripe;
  if (token_begin > limits::kMaxContextTokens || !stripe.Owns(token_begin)) {
    return FrameError::kOutOfRange;
  }
  const uint64_t token_end = token_begin + num_tokens;
  if (stripe.RunAt(token_begin, token_end).end != token_end) return FrameError::kOutOfRange;
  const uint64_t local_begin = stripe.LocalIndex(token_begin);
  const TokenRange local{local_begin, local_begin + num_tokens};
  if (local.end > spec_.capacity_tokens) return FrameError::kOutOfRange;

  StoredRanges& stored = layers_[layer - spec_.layer_begin];
  if (!stored.CanInsert(local)) return FrameError::kExhausted;
  stored.ForEachMissing(local,
                        [&](TokenRange missing) { StoreMissing(layer, missing, local, rows); });
  stored.Insert(local);
  return FrameError::kOk;
}

// Stores `local` out of rows that hold the tokens `given`.
void KvShard::StoreMissing(uint32_t layer, TokenRange local, TokenRange given,
                           const KvExchangeRows& rows) {
  ClearNewTiles(layer, local);
  const uint32_t heads = spec_.num_kv_heads_held();
  const size_t k_row_bytes = spec_.model.head_dim * DTypeBytes(rows.k_dtype);
  const size_t v_row_bytes = spec_.model.head_dim * DTypeBytes(rows.v_dtype);
  const uint64_t run_tokens = tokens_per_run();
  for (uint32_t head = 0; head < heads; ++head) {
    for (uint64_t pos = local.begin; pos < local.end;) {
      const uint64_t run_begin = pos / run_tokens * run_tokens;
      const uint64_t end = std::min(local.end, run_begin + run_tokens);
      const uint64_t first_row = (pos - given.begin) * heads + head;
      PackHeadRows(pack_, tile_layout(),
                   {rows.k.data() + first_row * k_row_bytes, heads * k_row_bytes, rows.k_dtype},
                   {rows.v.data() + first_row * v_row_bytes, heads * v_row_bytes, rows.v_dtype},
                   Tile(layer, head, run_begin / kKvTileTokens), pos - run_begin,
                   static_cast<uint32_t>(end - pos));
      pos = end;
    }
  }
}

// A tile that `local` fills needs no clearing.
void KvShard::ClearNewTiles(uint32_t layer, TokenRange local) {
  std::vector<bool>& has_tokens = has_tokens_[layer - spec_.layer_begin];
  for (uint64_t tile = local.begin / kKvTileTokens; tile < KvTilesFor(local.end); ++tile) {
    if (has_tokens[tile]) continue;
    has_tokens[tile] = true;
    if (local.Contains({tile * kKvTileTokens, (tile + 1) * kKvTileTokens})) continue;
    for (uint32_t head = 0; head < spec_.num_kv_heads_held(); ++head) {
      std::memset(Tile(layer, head, tile), 0, tile_layout().record_bytes);
    }
  }
}

uint64_t KvShard::stored_tokens(uint32_t layer) const {
  return HoldsLayer(layer) ? layers_[layer - spec_.layer_begin].prefix_tokens() : 0;
}

KvRun KvShard::RunAt(uint32_t layer, uint32_t kv_head, uint64_t local_begin,
                     uint64_t local_end) const {
  TRIBUTARY_CHECK_LT(local_begin, local_end);
  TRIBUTARY_CHECK_LE(local_end, stored_tokens(layer));
  const uint64_t run_begin = local_begin / tokens_per_run() * tokens_per_run();
  const uint64_t run_end = std::min(local_end, run_begin + tokens_per_run());
  return {TileAt(layer, kv_head, run_begin / kKvTileTokens), run_begin,
          static_cast<uint32_t>(local_begin - run_begin),
          static_cast<uint32_t>(run_end - run_begin)};
}

const std::byte* KvShard::TileAt(uint32_t layer, uint32_t kv_head, uint64_t tile) const {
  TRIBUTARY_CHECK(HoldsLayer(layer));
  TRIBUTARY_CHECK_LT(kv_head, spec_.num_kv_heads_held());
  TRIBUTARY_CHECK_LT(tile, KvTilesFor(stored_tokens(layer)));
  return Tile(layer, kv_head, tile);
}

}  // namespace tributary
