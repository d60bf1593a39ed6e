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

absl::StatusOr<std::unique_ptr<KvShard>> KvShard::Open(const ShardSpec& spec, BlockPool* pool, KvPackFn pack) {
  TRIBUTARY_ASSIGN_OR_RETURN(const ShardLayout layout, ShardLayout::Make(spec, pool->extent_bytes()));
  const uint64_t num_extents = layout.num_extents();
  if (num_extents > pool->num_free()) {
    return absl::ResourceExhaustedError(
        fmt::format("shard {} of sequence {}: {} bytes needed, {} free of {} in the KV pool; wait until other "
                    "sequences end, or give the node a larger pool",
                    spec.shard_id.value, spec.sequence_id.value, num_extents * pool->extent_bytes(), pool->free_bytes(),
                    pool->capacity_bytes()));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(
      std::vector<ExtentId> extents,
      pool->Acquire(static_cast<uint32_t>(layout.num_streams), static_cast<uint32_t>(layout.extents_per_stream)));
  return std::unique_ptr<KvShard>(new KvShard(spec, pool, pack, BlockTable(layout, std::move(extents))));
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
         rows.k.size() == elements * DTypeBytes(rows.k_dtype) && rows.v.size() == elements * DTypeBytes(rows.v_dtype);
}

FrameError KvShard::Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows) {
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
  uint64_t num_missing = 0;
  stored.ForEachMissing(local, [&](TokenRange missing) {
    StoreMissing(layer, missing, local, rows);
    num_missing += missing.size();
  });
  const uint64_t prefix_before = stored.prefix_tokens();
  stored.Insert(local);
  if (!summaries_.empty()) {
    // Rows of tokens that were stored before say nothing.
    const TokenRange news = num_missing == local.size() ? local : TokenRange{};
    Summarise(layer, {prefix_before, stored.prefix_tokens()}, news, rows);
  }
  return FrameError::kOk;
}

// Stores `local` out of rows that hold the tokens `given`.
void KvShard::StoreMissing(uint32_t layer, TokenRange local, TokenRange given, const KvExchangeRows& rows) {
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
      PackHeadRows(pack_, tile_layout(), {rows.k.data() + first_row * k_row_bytes, heads * k_row_bytes, rows.k_dtype},
                   {rows.v.data() + first_row * v_row_bytes, heads * v_row_bytes, rows.v_dtype},
                   Tile(layer, head, run_begin / kKvTileTokens), pos - run_begin, static_cast<uint32_t>(end - pos));
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

absl::Status KvShard::KeepSummaries(const BlockSummaryOptions& options) {
  if (FindSummaries(options) != nullptr) {
    return absl::FailedPreconditionError("shard: these block summaries are kept already; ask for each once");
  }
  for (const std::vector<bool>& layer : has_tokens_) {
    if (std::find(layer.begin(), layer.end(), true) != layer.end()) {
      return absl::FailedPreconditionError(
          "shard: tokens are stored already; ask for block summaries when the shard is opened");
    }
  }
  const SummarisedKeys keys{spec_.model.head_dim, table_.layout().num_streams, spec_.capacity_tokens};
  TRIBUTARY_ASSIGN_OR_RETURN(BlockSummaries summaries, BlockSummaries::Open(options, keys, pool_));
  summaries_.push_back(std::move(summaries));
  return absl::OkStatus();
}

const BlockSummaries* KvShard::FindSummaries(const BlockSummaryOptions& options) const {
  for (const BlockSummaries& summaries : summaries_) {
    if (summaries.options() == options) return &summaries;
  }
  return nullptr;
}

uint64_t KvShard::reserved_bytes() const {
  uint64_t bytes = table_.extents().size() * pool_->extent_bytes();
  for (const BlockSummaries& summaries : summaries_) bytes += summaries.reserved_bytes();
  return bytes;
}

// Adds the tokens `added`, whose gaps are closed. The rows hold `given`, if any: a float storage's
// values are the rows' rounded to it, which is quicker than reading them back out of the tiles.
void KvShard::Summarise(uint32_t layer, TokenRange added, TokenRange given, const KvExchangeRows& rows) {
  const uint32_t heads = spec_.num_kv_heads_held();
  const uint32_t head_dim = spec_.model.head_dim;
  const bool is_float = IsFloatKvStorage(tile_layout().k_storage);
  const DType stored_dtype = static_cast<DType>(tile_layout().k_storage);
  const size_t row_bytes = head_dim * DTypeBytes(rows.k_dtype);
  std::vector<float> keys(kKvTileTokens * head_dim);
  std::vector<float> values(kKvTileTokens * head_dim);
  for (uint32_t head = 0; head < heads; ++head) {
    for (uint64_t pos = added.begin; pos < added.end;) {
      const uint32_t in_tile = pos % kKvTileTokens;
      const auto count = static_cast<uint32_t>(std::min<uint64_t>(kKvTileTokens - in_tile, added.end - pos));
      if (is_float && given.Contains({pos, pos + count})) {
        for (uint32_t i = 0; i < count; ++i) {
          float* key = keys.data() + size_t{i} * head_dim;
          const uint64_t row = (pos + i - given.begin) * heads + head;
          ConvertToF32(rows.k_dtype, rows.k.data() + row * row_bytes, head_dim, key);
          if (stored_dtype == rows.k_dtype) continue;
          ConvertFromF32(stored_dtype, key, head_dim, values.data());
          ConvertToF32(stored_dtype, values.data(), head_dim, key);
        }
      } else {
        UnpackKvToF32(tile_layout(), Tile(layer, head, pos / kKvTileTokens), in_tile, count, keys.data(),
                      values.data());
      }
      for (BlockSummaries& summaries : summaries_) {
        summaries.Append(StreamIdx(layer, head), keys.data(), head_dim, count);
      }
      pos += count;
    }
  }
}

uint64_t KvShard::stored_tokens(uint32_t layer) const {
  return HoldsLayer(layer) ? layers_[layer - spec_.layer_begin].prefix_tokens() : 0;
}

KvRun KvShard::RunAt(uint32_t layer, uint32_t kv_head, uint64_t local_begin, uint64_t local_end) const {
  TRIBUTARY_CHECK_LT(local_begin, local_end);
  TRIBUTARY_CHECK_LE(local_end, stored_tokens(layer));
  const uint64_t run_begin = local_begin / tokens_per_run() * tokens_per_run();
  const uint64_t run_end = std::min(local_end, run_begin + tokens_per_run());
  return {TileAt(layer, kv_head, run_begin / kKvTileTokens), run_begin, static_cast<uint32_t>(local_begin - run_begin),
          static_cast<uint32_t>(run_end - run_begin)};
}

const std::byte* KvShard::TileAt(uint32_t layer, uint32_t kv_head, uint64_t tile) const {
  TRIBUTARY_CHECK(HoldsLayer(layer));
  TRIBUTARY_CHECK_LT(kv_head, spec_.num_kv_heads_held());
  TRIBUTARY_CHECK_LT(tile, KvTilesFor(stored_tokens(layer)));
  return Tile(layer, kv_head, tile);
}

}  // namespace tributary
