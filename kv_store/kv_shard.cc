#include "kv_store/kv_shard.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/status.h"

namespace tributary {
namespace {

constexpr uint64_t kNoToken = std::numeric_limits<uint64_t>::max();
// Of one shard. More are counted, but no longer told apart.
constexpr size_t kMaxRememberedCorruptTiles = 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<KvShard>> KvShard::Open(const ShardSpec& spec, BlockPool* pool, KvPackFn pack,
                                                       StoreCounters* counters) {
  TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<ShardTiles> tiles, ShardTiles::Open(spec, pool, pack));
  return std::unique_ptr<KvShard>(new KvShard(spec, pool, std::move(tiles), counters));
}

absl::StatusOr<uint64_t> KvShard::ReservedBytes(const ShardSpec& spec, size_t extent_bytes) {
  return ShardTiles::ReservedBytes(spec, extent_bytes);
}

KvShard::KvShard(const ShardSpec& spec, BlockPool* pool, std::unique_ptr<ShardTiles> tiles, StoreCounters* counters)
    : spec_(spec),
      pool_(pool),
      tiles_(std::move(tiles)),
      counters_(counters),
      layers_(spec.num_layers_held()),
      checked_tokens_(spec.num_layers_held()),
      first_corrupt_token_(spec.num_layers_held()),
      summarised_tokens_(spec.num_layers_held()) {
  for (std::atomic<uint64_t>& token : first_corrupt_token_) token.store(kNoToken, std::memory_order_relaxed);
}

// ---- storing ----

bool KvShard::AreRowsValid(uint32_t num_tokens, const KvExchangeRows& rows) const {
  const uint64_t elements = uint64_t{num_tokens} * spec_.num_kv_heads_held() * spec_.model.head_dim;
  return IsValidDType(rows.k_dtype) && IsValidDType(rows.v_dtype) &&
         rows.k.size() == elements * DTypeBytes(rows.k_dtype) && rows.v.size() == elements * DTypeBytes(rows.v_dtype);
}

StoreError KvShard::CheckCall(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows,
                              TokenRange* local) const {
  const TokenStripe& stripe = spec_.stripe;
  if (!HoldsLayer(layer) || num_tokens == 0) return StoreError::kOutOfRange;
  if (token_begin > limits::kMaxContextTokens || !stripe.Owns(token_begin)) return StoreError::kOutOfRange;
  const uint64_t token_end = token_begin + num_tokens;
  if (stripe.RunAt(token_begin, token_end).end != token_end) return StoreError::kOutOfRange;
  const uint64_t local_begin = stripe.LocalIndex(token_begin);
  *local = {local_begin, local_begin + num_tokens};
  if (local->end > spec_.capacity_tokens) return StoreError::kOutOfRange;
  return AreRowsValid(num_tokens, rows) ? StoreError::kOk : StoreError::kBadGeometry;
}

GivenRows KvShard::RowsOfHead(const KvExchangeRows& rows, uint32_t kv_head, uint64_t first_token) const {
  const size_t k_row_bytes = spec_.model.head_dim * DTypeBytes(rows.k_dtype);
  const size_t v_row_bytes = spec_.model.head_dim * DTypeBytes(rows.v_dtype);
  const size_t heads = spec_.num_kv_heads_held();
  return {{rows.k.data() + kv_head * k_row_bytes, heads * k_row_bytes, rows.k_dtype},
          {rows.v.data() + kv_head * v_row_bytes, heads * v_row_bytes, rows.v_dtype},
          first_token};
}

StoreResult KvShard::Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows,
                           Storer storer) {
  if (is_closed_.load(std::memory_order_acquire)) return {.error = StoreError::kUnknownShard};
  TokenRange local;
  if (const StoreError error = CheckCall(layer, token_begin, num_tokens, rows, &local); error != StoreError::kOk) {
    return {.error = error};
  }
  LayerTokens& tokens = layers_[layer - spec_.layer_begin];
  StoreClaim claim;
  if (const StoreError error = tokens.Claim(local, storer, &claim); error != StoreError::kOk) return {.error = error};
  StoreResult result = StoreClaimed(layer, claim, rows);
  if (result.ok()) {
    tokens.Commit(claim);
  } else {
    tokens.Abandon(claim);
  }
  result.stored_tokens = tokens.visible();
  if (HasSummaries() && storer == Storer::kOwner && result.ok()) {
    Summarise(layer, {summarised_tokens_[layer - spec_.layer_begin], result.stored_tokens}, local, rows);
  }
  return result;
}

StoreResult KvShard::StoreClaimed(uint32_t layer, const StoreClaim& claim, const KvExchangeRows& rows) {
  StoreResult result;
  result.new_tokens = claim.num_missing();
  const bool is_news = result.new_tokens == claim.tokens.size();
  if (!is_news && !CompareStored(layer, claim, rows, &result)) return result;
  if (!CheckTouched(layer, claim, &result)) return result;
  for (uint32_t head = 0; head < spec_.num_kv_heads_held(); ++head) {
    const GivenRows given = RowsOfHead(rows, head, claim.tokens.begin);
    for (const StoreClaim::Missing& run : claim.missing) tiles_->Write(StreamIdx(layer, head), run, given);
  }
  return result;
}

// False, with the reason in `result`, if tokens that are stored already are others than the rows'.
bool KvShard::CompareStored(uint32_t layer, const StoreClaim& claim, const KvExchangeRows& rows, StoreResult* result) {
  const auto is_same = [&](uint32_t head, TokenRange stored) {
    if (stored.empty()) return true;
    for (uint64_t tile = stored.begin / kKvTileTokens; tile < KvTilesFor(stored.end); ++tile) {
      if (!CheckTile(layer, head, tile, result)) return false;
    }
    const std::optional<uint64_t> other =
        tiles_->FirstOtherTile(StreamIdx(layer, head), stored, RowsOfHead(rows, head, claim.tokens.begin));
    if (!other.has_value()) return true;
    *result = {.error = StoreError::kOtherContent, .place = {spec_.shard_id, layer, head, *other}};
    if (counters_ != nullptr) counters_->refused_other_content.fetch_add(1, std::memory_order_relaxed);
    return false;
  };
  for (uint32_t head = 0; head < spec_.num_kv_heads_held(); ++head) {
    uint64_t pos = claim.tokens.begin;
    for (const StoreClaim::Missing& run : claim.missing) {
      if (!is_same(head, {pos, run.tokens.begin})) return false;
      pos = run.tokens.end;
    }
    if (!is_same(head, {pos, claim.tokens.end})) return false;
  }
  return true;
}

// Tiles that get more tokens get a new CRC, which must not vouch for what went wrong before.
bool KvShard::CheckTouched(uint32_t layer, const StoreClaim& claim, StoreResult* result) {
  for (const StoreClaim::Missing& run : claim.missing) {
    for (uint32_t head = 0; head < spec_.num_kv_heads_held(); ++head) {
      if (run.first_tile_has_tokens && !CheckTile(layer, head, run.tokens.begin / kKvTileTokens, result)) return false;
      if (run.last_tile_has_tokens && !CheckTile(layer, head, (run.tokens.end - 1) / kKvTileTokens, result)) {
        return false;
      }
    }
  }
  return true;
}

bool KvShard::CheckTile(uint32_t layer, uint32_t kv_head, uint64_t tile, StoreResult* result) {
  if (AreIntact(layer, kv_head, tile, tile + 1)) return true;
  *result = {.error = StoreError::kCorrupt, .place = {spec_.shard_id, layer, kv_head, tile}};
  return false;
}

void KvShard::Hold() {
  for (LayerTokens& layer : layers_) layer.Hold();
}

void KvShard::EndHold() {
  for (LayerTokens& layer : layers_) layer.EndHold();
}

void KvShard::Publish() {
  for (LayerTokens& layer : layers_) layer.Publish();
}

uint64_t KvShard::stored_tokens(uint32_t layer) const {
  return HoldsLayer(layer) ? layers_[layer - spec_.layer_begin].visible() : 0;
}

// ---- reading ----

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
  return tiles_->Tile(StreamIdx(layer, kv_head), tile);
}

// ---- checking ----

bool KvShard::AreIntact(uint32_t layer, uint32_t kv_head, uint64_t tile_begin, uint64_t tile_end) {
  const uint64_t stream = StreamIdx(layer, kv_head);
  for (uint64_t tile = tile_begin; tile < tile_end; ++tile) {
    if (tiles_->IsIntact(stream, tile)) continue;
    ReportCorrupt({spec_.shard_id, layer, kv_head, tile});
    return false;
  }
  return true;
}

void KvShard::ReportCorrupt(const TilePlace& place) {
  const MutexLock lock(&corrupt_mutex_);
  if (std::find(corrupt_.begin(), corrupt_.end(), place) != corrupt_.end()) return;
  if (corrupt_.size() < kMaxRememberedCorruptTiles) corrupt_.push_back(place);
  std::atomic<uint64_t>& first = first_corrupt_token_[place.layer - spec_.layer_begin];
  const uint64_t token = place.tile * kKvTileTokens;
  if (token < first.load(std::memory_order_relaxed)) first.store(token, std::memory_order_release);
  if (counters_ != nullptr) counters_->corrupt_tiles.fetch_add(1, std::memory_order_relaxed);
  LOG_ERROR(
      "{} no longer has the bytes that were stored: queries that read it are refused. Check this host's memory; "
      "the sequence must be stored anew",
      ToString(place));
}

std::optional<TilePlace> KvShard::FirstCorruptTile(uint32_t layer) const {
  const MutexLock lock(&corrupt_mutex_);
  std::optional<TilePlace> first;
  for (const TilePlace& place : corrupt_) {
    if (place.layer == layer && (!first.has_value() || place.tile < first->tile)) first = place;
  }
  return first;
}

// ---- summaries ----

absl::Status KvShard::KeepSummaries(const BlockSummaryOptions& options) {
  if (FindSummaries(options) != nullptr) {
    return absl::FailedPreconditionError("shard: these block summaries are kept already; ask for each once");
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckKeeps());
  const SummarisedKeys keys{spec_.model.head_dim, tiles_->layout().num_streams, spec_.capacity_tokens};
  TRIBUTARY_ASSIGN_OR_RETURN(BlockSummaries summaries, BlockSummaries::Open(options, keys, pool_));
  summaries_.push_back(std::move(summaries));
  return absl::OkStatus();
}

absl::Status KvShard::KeepCodes(const KeyCodeOptions& options) {
  if (FindCodes(options) != nullptr) {
    return absl::FailedPreconditionError("shard: these key codes are kept already; ask for each once");
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckKeeps());
  const SummarisedKeys keys{spec_.model.head_dim, tiles_->layout().num_streams, spec_.capacity_tokens};
  TRIBUTARY_ASSIGN_OR_RETURN(KeyCodes codes, KeyCodes::Open(options, keys, pool_));
  key_codes_.push_back(std::move(codes));
  return absl::OkStatus();
}

absl::Status KvShard::CheckKeeps() const {
  for (const LayerTokens& layer : layers_) {
    if (layer.IsEmpty()) continue;
    return absl::FailedPreconditionError(
        "shard: tokens are stored already; ask for block summaries and key codes when the shard is opened");
  }
  return absl::OkStatus();
}

const KeyCodes* KvShard::FindCodes(const KeyCodeOptions& options) const {
  for (const KeyCodes& codes : key_codes_) {
    if (codes.options() == options) return &codes;
  }
  return nullptr;
}

const BlockSummaries* KvShard::FindSummaries(const BlockSummaryOptions& options) const {
  for (const BlockSummaries& summaries : summaries_) {
    if (summaries.options() == options) return &summaries;
  }
  return nullptr;
}

uint64_t KvShard::reserved_bytes() const {
  uint64_t bytes = tiles_->reserved_bytes();
  for (const BlockSummaries& summaries : summaries_) bytes += summaries.reserved_bytes();
  for (const KeyCodes& codes : key_codes_) bytes += codes.reserved_bytes();
  return bytes;
}

void KvShard::UpdateSummaries(uint32_t layer) {
  if (!HasSummaries()) return;
  const TokenRange added{summarised_tokens_[layer - spec_.layer_begin], stored_tokens(layer)};
  if (!added.empty()) Summarise(layer, added, {}, {});
}

// The keys of tokens [pos, pos + count) of one tile, [count][head_dim], in the values that attention reads. The rows
// hold `given`, if any: a float storage's values are the rows' rounded to it, which is quicker than reading them back
// out of the tile.
void KvShard::ReadKeys(uint32_t layer, uint32_t kv_head, uint64_t pos, uint32_t count, TokenRange given,
                       const KvExchangeRows& rows, KeyBuffers* to) const {
  const uint32_t head_dim = spec_.model.head_dim;
  to->keys.resize(size_t{count} * head_dim);
  to->values.resize(size_t{count} * head_dim);
  if (!IsFloatKvStorage(tile_layout().k_storage) || !given.Contains({pos, pos + count})) {
    UnpackKvToF32(tile_layout(), tiles_->Tile(StreamIdx(layer, kv_head), pos / kKvTileTokens), pos % kKvTileTokens,
                  count, to->keys.data(), to->values.data());
    return;
  }
  const DType stored_dtype = static_cast<DType>(tile_layout().k_storage);
  const size_t row_bytes = head_dim * DTypeBytes(rows.k_dtype);
  for (uint32_t i = 0; i < count; ++i) {
    float* key = to->keys.data() + size_t{i} * head_dim;
    const uint64_t row = (pos + i - given.begin) * spec_.num_kv_heads_held() + kv_head;
    ConvertToF32(rows.k_dtype, rows.k.data() + row * row_bytes, head_dim, key);
    if (stored_dtype == rows.k_dtype) continue;
    ConvertFromF32(stored_dtype, key, head_dim, to->values.data());
    ConvertToF32(stored_dtype, to->values.data(), head_dim, key);
  }
}

// Adds the tokens `added`, whose gaps are closed.
void KvShard::Summarise(uint32_t layer, TokenRange added, TokenRange given, const KvExchangeRows& rows) {
  KeyBuffers buffers;
  for (uint32_t head = 0; head < spec_.num_kv_heads_held(); ++head) {
    const uint64_t stream = StreamIdx(layer, head);
    for (uint64_t pos = added.begin; pos < added.end && !summaries_.empty();) {
      const auto count =
          static_cast<uint32_t>(std::min<uint64_t>(kKvTileTokens - pos % kKvTileTokens, added.end - pos));
      ReadKeys(layer, head, pos, count, given, rows, &buffers);
      for (BlockSummaries& summaries : summaries_) {
        summaries.Append(stream, buffers.keys.data(), spec_.model.head_dim, count);
      }
      pos += count;
    }
    for (KeyCodes& codes : key_codes_) {
      while (codes.num_tokens(stream) + kKeyCodeRecordTokens <= added.end) {
        ReadKeys(layer, head, codes.num_tokens(stream), kKeyCodeRecordTokens, given, rows, &buffers);
        codes.Add(stream, buffers.keys.data());
      }
    }
  }
  summarised_tokens_[layer - spec_.layer_begin] = added.end;
}

}  // namespace tributary
