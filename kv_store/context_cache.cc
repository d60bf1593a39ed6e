#include "kv_store/context_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "fmt/format.h"
#include "kv_store/tile_rows.h"
#include "policy/policy.h"

namespace tributary {

uint64_t ContextCacheTokens(const ShardSpec& spec) {
  const std::unique_ptr<const AttentionPolicy> policy = MakePolicy(spec.policy);
  if (!policy->needs().context_cache) return 0;
  const uint64_t limit = policy->needs().max_cache_tokens;
  return limit == 0 ? (spec.capacity_tokens + 1) / 2 : std::min(limit, spec.capacity_tokens);
}

absl::StatusOr<std::optional<ContextCache::Plan>> ContextCache::Make(const ShardSpec& spec, size_t extent_bytes) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(spec));
  ShardSpec cached = spec;
  cached.capacity_tokens = ContextCacheTokens(spec);
  if (cached.capacity_tokens == 0) return std::nullopt;
  Plan plan;
  TRIBUTARY_ASSIGN_OR_RETURN(plan.layout, ShardLayout::Make(cached, extent_bytes));
  const std::unique_ptr<const AttentionPolicy> policy = MakePolicy(spec.policy);
  uint32_t num_streams = 0;
  for (uint32_t layer = spec.layer_begin; layer < spec.layer_end; ++layer) {
    for (uint32_t head = spec.kv_head_begin; head < spec.kv_head_end; ++head) {
      plan.stream_of.push_back(policy->IsAlwaysDense(layer, head) ? kNoStream : num_streams++);
    }
  }
  if (num_streams == 0) return std::nullopt;
  plan.layout.num_streams = num_streams;
  return plan;
}

absl::StatusOr<uint64_t> ContextCache::ReservedBytes(const ShardSpec& spec, size_t extent_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::optional<Plan> plan, Make(spec, extent_bytes));
  return plan.has_value() ? plan->layout.num_extents() * extent_bytes : 0;
}

absl::StatusOr<std::unique_ptr<ContextCache>> ContextCache::Open(const ShardSpec& spec, BlockPool* pool) {
  TRIBUTARY_ASSIGN_OR_RETURN(std::optional<Plan> plan, Make(spec, pool->extent_bytes()));
  if (!plan.has_value()) return nullptr;
  const uint64_t num_extents = plan->layout.num_extents();
  if (num_extents > pool->num_free()) {
    return absl::ResourceExhaustedError(
        fmt::format("shard {} of sequence {}: {} bytes needed for the context caches of policy {}, {} free of "
                    "{} in the KV pool; wait until other sequences end, set max_cache_tokens, or give the node "
                    "a larger pool",
                    spec.shard_id.value, spec.sequence_id.value, num_extents * pool->extent_bytes(),
                    std::string(spec.policy.name()), pool->free_bytes(), pool->capacity_bytes()));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(std::vector<ExtentId> extents,
                             pool->Acquire(static_cast<uint32_t>(plan->layout.num_streams),
                                           static_cast<uint32_t>(plan->layout.extents_per_stream)));
  return std::unique_ptr<ContextCache>(new ContextCache(spec, pool, *std::move(plan), std::move(extents)));
}

ContextCache::ContextCache(const ShardSpec& spec, BlockPool* pool, Plan plan, std::vector<ExtentId> extents)
    : spec_(spec),
      capacity_rows_(ContextCacheTokens(spec)),
      pool_(pool),
      table_(plan.layout, std::move(extents)),
      stream_of_(std::move(plan.stream_of)),
      rows_(plan.layout.num_streams, 0) {}

ContextCache::~ContextCache() { pool_->Release(table_.extents()); }

bool ContextCache::Has(uint32_t layer, uint32_t kv_head) const {
  if (layer < spec_.layer_begin || layer >= spec_.layer_end || kv_head >= spec_.num_kv_heads_held()) {
    return false;
  }
  const size_t i = size_t{layer - spec_.layer_begin} * spec_.num_kv_heads_held() + kv_head;
  return stream_of_[i] != kNoStream;
}

uint32_t ContextCache::StreamOf(uint32_t layer, uint32_t kv_head) const {
  TRIBUTARY_CHECK(Has(layer, kv_head));
  return stream_of_[size_t{layer - spec_.layer_begin} * spec_.num_kv_heads_held() + kv_head];
}

std::byte* ContextCache::Tile(uint32_t stream, uint64_t tile) const {
  const BlockTable::Place place = table_.Tile(stream, tile);
  return pool_->data(place.extent) + place.offset_bytes;
}

uint64_t ContextCache::filled_bytes() const {
  uint64_t tiles = 0;
  for (const uint64_t rows : rows_) tiles += KvTilesFor(rows);
  return tiles * tile_layout().record_bytes;
}

void ContextCache::Append(const KvShard& shard, uint32_t layer, uint32_t kv_head, std::span<const uint32_t> tokens) {
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

void ContextCache::Keep(uint32_t layer, uint32_t kv_head, std::span<const uint32_t> rows) {
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

KvRun ContextCache::RunAt(uint32_t layer, uint32_t kv_head, uint64_t row_begin, uint64_t row_end) const {
  const uint32_t stream = StreamOf(layer, kv_head);
  TRIBUTARY_CHECK_LT(row_begin, row_end);
  TRIBUTARY_CHECK_LE(row_end, rows_[stream]);
  const uint64_t run_begin = row_begin / rows_per_run() * rows_per_run();
  const uint64_t run_end = std::min(row_end, run_begin + rows_per_run());
  return {Tile(stream, run_begin / kKvTileTokens), run_begin, static_cast<uint32_t>(row_begin - run_begin),
          static_cast<uint32_t>(run_end - run_begin)};
}

absl::StatusOr<uint64_t> ShardReservedBytes(const ShardSpec& spec, size_t extent_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t shard_bytes, KvShard::ReservedBytes(spec, extent_bytes));
  TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t cache_bytes, ContextCache::ReservedBytes(spec, extent_bytes));
  return shard_bytes + cache_bytes;
}

}  // namespace tributary
