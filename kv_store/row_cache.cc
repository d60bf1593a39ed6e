#include "kv_store/row_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "fmt/format.h"
#include "kv_store/tile_rows.h"

namespace tributary {

absl::StatusOr<std::optional<RowCache::Plan>> RowCache::Make(const ShardSpec& spec, const RowCacheOptions& options,
                                                             size_t extent_bytes) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(spec));
  const size_t num_heads = size_t{spec.num_layers_held()} * spec.num_kv_heads_held();
  if (options.capacity_rows > spec.capacity_tokens ||
      (!options.has_rows.empty() && options.has_rows.size() != num_heads)) {
    return absl::InvalidArgumentError(fmt::format(
        "shard {}: a row cache of {} rows for {} heads; there are at most {} tokens and {} heads", spec.shard_id.value,
        options.capacity_rows, options.has_rows.size(), spec.capacity_tokens, num_heads));
  }
  if (options.capacity_rows == 0) return std::nullopt;
  ShardSpec cached = spec;
  cached.capacity_tokens = options.capacity_rows;
  Plan plan;
  TRIBUTARY_ASSIGN_OR_RETURN(plan.layout, ShardLayout::Make(cached, extent_bytes));
  uint32_t num_streams = 0;
  for (size_t i = 0; i < num_heads; ++i) {
    const bool has_rows = options.has_rows.empty() || options.has_rows[i] != 0;
    plan.stream_of.push_back(has_rows ? num_streams++ : kNoStream);
  }
  if (num_streams == 0) return std::nullopt;
  plan.layout.num_streams = num_streams;
  return plan;
}

absl::StatusOr<uint64_t> RowCache::ReservedBytes(const ShardSpec& spec, const RowCacheOptions& options,
                                                 size_t extent_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::optional<Plan> plan, Make(spec, options, extent_bytes));
  return plan.has_value() ? plan->layout.num_extents() * extent_bytes : 0;
}

absl::StatusOr<std::unique_ptr<RowCache>> RowCache::Open(const ShardSpec& spec, const RowCacheOptions& options,
                                                         BlockPool* pool) {
  TRIBUTARY_ASSIGN_OR_RETURN(std::optional<Plan> plan, Make(spec, options, pool->extent_bytes()));
  if (!plan.has_value()) return nullptr;
  const uint64_t num_extents = plan->layout.num_extents();
  if (num_extents > pool->num_free()) {
    return absl::ResourceExhaustedError(
        fmt::format("shard {} of sequence {}: {} bytes needed for the rows that its policy caches, {} free of {} in "
                    "the KV pool; wait until other sequences end, let the policy cache less, or give the node a larger "
                    "pool",
                    spec.shard_id.value, spec.sequence_id.value, num_extents * pool->extent_bytes(), pool->free_bytes(),
                    pool->capacity_bytes()));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(std::vector<ExtentId> extents,
                             pool->Acquire(static_cast<uint32_t>(plan->layout.num_streams),
                                           static_cast<uint32_t>(plan->layout.extents_per_stream)));
  return std::unique_ptr<RowCache>(
      new RowCache(spec, options.capacity_rows, pool, *std::move(plan), std::move(extents)));
}

RowCache::RowCache(const ShardSpec& spec, uint64_t capacity_rows, BlockPool* pool, Plan plan,
                   std::vector<ExtentId> extents)
    : spec_(spec),
      capacity_rows_(capacity_rows),
      pool_(pool),
      table_(plan.layout, std::move(extents)),
      stream_of_(std::move(plan.stream_of)),
      rows_(plan.layout.num_streams, 0) {}

RowCache::~RowCache() { pool_->Release(table_.extents()); }

bool RowCache::Has(uint32_t layer, uint32_t kv_head) const {
  if (layer < spec_.layer_begin || layer >= spec_.layer_end || kv_head >= spec_.num_kv_heads_held()) {
    return false;
  }
  const size_t i = size_t{layer - spec_.layer_begin} * spec_.num_kv_heads_held() + kv_head;
  return stream_of_[i] != kNoStream;
}

uint32_t RowCache::StreamOf(uint32_t layer, uint32_t kv_head) const {
  TRIBUTARY_CHECK(Has(layer, kv_head));
  return stream_of_[size_t{layer - spec_.layer_begin} * spec_.num_kv_heads_held() + kv_head];
}

std::byte* RowCache::Tile(uint32_t stream, uint64_t tile) const {
  const BlockTable::Place place = table_.Tile(stream, tile);
  return pool_->data(place.extent) + place.offset_bytes;
}

uint64_t RowCache::filled_bytes() const {
  uint64_t tiles = 0;
  for (const uint64_t rows : rows_) tiles += KvTilesFor(rows);
  return tiles * tile_layout().record_bytes;
}

void RowCache::Append(const KvShard& shard, uint32_t layer, uint32_t kv_head, std::span<const uint32_t> tokens) {
  const uint32_t stream = StreamOf(layer, kv_head);
  uint64_t& num_rows = rows_[stream];
  TRIBUTARY_CHECK_LE(num_rows + tokens.size(), capacity_rows_);
  const KvTileLayout& layout = tile_layout();
  for (const uint32_t token : tokens) {
    std::byte* to = Tile(stream, num_rows / kKvTileTokens);
    // Kernels mask rows that are not there, but 0 x NaN is NaN, and the memory may be another shard's of old.
    if (num_rows % kKvTileTokens == 0) std::memset(to, 0, layout.record_bytes);
    CopyTileToken(layout, shard.TileAt(layer, kv_head, token / kKvTileTokens), token % kKvTileTokens, to,
                  num_rows % kKvTileTokens);
    ++num_rows;
  }
}

void RowCache::Keep(uint32_t layer, uint32_t kv_head, std::span<const uint32_t> rows) {
  const uint32_t stream = StreamOf(layer, kv_head);
  uint32_t row = 0;
  for (const uint32_t kept : rows) {  // they ascend, so nothing is overwritten unread
    TRIBUTARY_CHECK_LT(kept, rows_[stream]);
    TRIBUTARY_CHECK_LE(row, kept);
    if (kept != row) {
      CopyTileToken(tile_layout(), Tile(stream, kept / kKvTileTokens), kept % kKvTileTokens,
                    Tile(stream, row / kKvTileTokens), row % kKvTileTokens);
    }
    ++row;
  }
  rows_[stream] = rows.size();
}

KvRun RowCache::RunAt(uint32_t layer, uint32_t kv_head, uint64_t row_begin, uint64_t row_end) const {
  const uint32_t stream = StreamOf(layer, kv_head);
  TRIBUTARY_CHECK_LT(row_begin, row_end);
  TRIBUTARY_CHECK_LE(row_end, rows_[stream]);
  const uint64_t run_begin = row_begin / rows_per_run() * rows_per_run();
  const uint64_t run_end = std::min(row_end, run_begin + rows_per_run());
  return {Tile(stream, run_begin / kKvTileTokens), run_begin, static_cast<uint32_t>(row_begin - run_begin),
          static_cast<uint32_t>(run_end - run_begin)};
}

}  // namespace tributary
