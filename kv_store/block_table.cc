#include "kv_store/block_table.h"

#include "base/check.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {

absl::StatusOr<ShardLayout> ShardLayout::Make(const ShardSpec& spec, size_t extent_bytes) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(spec));
  ShardLayout layout;
  layout.tile = TileLayoutOf(spec);
  if (layout.tile.record_bytes > extent_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("shard {}: {} tokens of head_dim {} in {} and {} take {} bytes, more than an extent of {}; "
                    "use larger extents (--extent-bytes)",
                    spec.shard_id.value, kKvTileTokens, spec.model.head_dim, std::string(DTypeName(spec.k_dtype)),
                    std::string(DTypeName(spec.v_dtype)), layout.tile.record_bytes, extent_bytes));
  }
  layout.tiles_per_extent = static_cast<uint32_t>(extent_bytes / layout.tile.record_bytes);
  const uint64_t tiles = KvTilesFor(spec.capacity_tokens);
  layout.extents_per_stream = (tiles + layout.tiles_per_extent - 1) / layout.tiles_per_extent;
  layout.num_streams = uint64_t{spec.num_layers_held()} * spec.num_kv_heads_held();
  return layout;
}

BlockTable::BlockTable(const ShardLayout& layout, std::vector<ExtentId> extents)
    : layout_(layout), extents_(std::move(extents)) {
  TRIBUTARY_CHECK_EQ(extents_.size(), layout_.num_extents());
}

}  // namespace tributary
