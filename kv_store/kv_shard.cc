#include "kv_store/kv_shard.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<KvShard>> KvShard::Open(const ShardSpec& spec, BlockPool* pool) {
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
  TRIBUTARY_ASSIGN_OR_RETURN(
      std::vector<ExtentId> extents,
      pool->Acquire(static_cast<uint32_t>(layout.num_streams),
                    static_cast<uint32_t>(num_extents / layout.num_streams)));
  return std::unique_ptr<KvShard>(new KvShard(spec, pool, BlockTable(layout, std::move(extents))));
}

uint64_t KvShard::ReservedBytes(const ShardSpec& spec, size_t extent_bytes) {
  const absl::StatusOr<ShardLayout> layout = ShardLayout::Make(spec, extent_bytes);
  TRIBUTARY_CHECK(layout.ok());
  return layout->num_extents() * extent_bytes;
}

KvShard::KvShard(const ShardSpec& spec, BlockPool* pool, BlockTable table)
    : spec_(spec), pool_(pool), table_(std::move(table)), layers_(spec.num_layers_held()) {}

KvShard::~KvShard() { pool_->Release(table_.extents()); }

FrameError KvShard::Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens,
                          std::span<const std::byte> k, std::span<const std::byte> v) {
  if (!HoldsLayer(layer) || num_tokens == 0) return FrameError::kOutOfRange;
  const uint64_t heads = spec_.num_kv_heads_held();
  if (k.size() != num_tokens * heads * table_.layout().k.row_bytes ||
      v.size() != num_tokens * heads * table_.layout().v.row_bytes) {
    return FrameError::kBadGeometry;
  }
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
  stored.ForEachMissing(local, [&](TokenRange missing) {
    const uint64_t skipped_rows = (missing.begin - local.begin) * heads;
    CopyRows(layer, missing, k.data() + skipped_rows * table_.layout().k.row_bytes,
             v.data() + skipped_rows * table_.layout().v.row_bytes);
  });
  stored.Insert(local);
  return FrameError::kOk;
}

void KvShard::CopyRows(uint32_t layer, TokenRange local, const std::byte* k, const std::byte* v) {
  const uint32_t heads = spec_.num_kv_heads_held();
  const size_t k_row_bytes = table_.layout().k.row_bytes;
  const size_t v_row_bytes = table_.layout().v.row_bytes;
  // Run by run, so that a row's place is found once per run and head, not once per row.
  for (uint64_t pos = local.begin; pos < local.end;) {
    const uint64_t run_end = std::min(local.end, (pos / tokens_per_run() + 1) * tokens_per_run());
    for (uint32_t head = 0; head < heads; ++head) {
      const BlockTable::Place k_place = table_.K(StreamIdx(layer, head), pos);
      const BlockTable::Place v_place = table_.V(StreamIdx(layer, head), pos);
      std::byte* k_row = pool_->data(k_place.extent) + k_place.offset_bytes;
      std::byte* v_row = pool_->data(v_place.extent) + v_place.offset_bytes;
      for (uint64_t row = pos - local.begin; row < run_end - local.begin; ++row) {
        std::memcpy(k_row, k + (row * heads + head) * k_row_bytes, k_row_bytes);
        std::memcpy(v_row, v + (row * heads + head) * v_row_bytes, v_row_bytes);
        k_row += k_row_bytes;
        v_row += v_row_bytes;
      }
    }
    pos = run_end;
  }
}

uint64_t KvShard::stored_tokens(uint32_t layer) const {
  return HoldsLayer(layer) ? layers_[layer - spec_.layer_begin].prefix_tokens() : 0;
}

KvRun KvShard::RunAt(uint32_t layer, uint32_t kv_head, uint64_t local_begin,
                     uint64_t local_end) const {
  TRIBUTARY_CHECK(HoldsLayer(layer));
  TRIBUTARY_CHECK_LT(kv_head, spec_.num_kv_heads_held());
  TRIBUTARY_CHECK_LT(local_begin, local_end);
  TRIBUTARY_CHECK_LE(local_end, stored_tokens(layer));
  const BlockTable::Place k = table_.K(StreamIdx(layer, kv_head), local_begin);
  const BlockTable::Place v = table_.V(StreamIdx(layer, kv_head), local_begin);
  const uint64_t run_end =
      std::min(local_end, (local_begin / tokens_per_run() + 1) * tokens_per_run());
  return {pool_->data(k.extent) + k.offset_bytes, pool_->data(v.extent) + v.offset_bytes,
          static_cast<uint32_t>(run_end - local_begin)};
}

}  // namespace tributary
