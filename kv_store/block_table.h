// Which extent, and which byte in it, holds a tile (kv_store/FORMAT.md).
//
// A shard has one stream per (layer, KV head): tiles of consecutive tokens, K and V together
// (attention/kv/kv_tile_layout.h). An extent holds whole tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/kv_tile_layout.h"
#include "cluster/shard_spec.h"
#include "kv_store/block_pool.h"

namespace tributary {

// All streams of a shard are alike.
struct ShardLayout {
  KvTileLayout tile;
  uint32_t tiles_per_extent = 0;
  uint64_t extents_per_stream = 0;
  uint64_t num_streams = 0;  // (layer, KV head) pairs held

  uint64_t num_extents() const { return num_streams * extents_per_stream; }
  uint32_t tokens_per_extent() const { return tiles_per_extent * kKvTileTokens; }

  // INVALID_ARGUMENT: Validate(spec), or a tile larger than an extent.
  static absl::StatusOr<ShardLayout> Make(const ShardSpec& spec, size_t extent_bytes);
};

// Immutable after construction: safe to read from any thread.
class BlockTable {
 public:
  // REQUIRES: extents.size() == layout.num_extents().
  BlockTable(const ShardLayout& layout, std::vector<ExtentId> extents);

  const ShardLayout& layout() const { return layout_; }
  std::span<const ExtentId> extents() const { return extents_; }

  struct Place {
    ExtentId extent = 0;
    size_t offset_bytes = 0;
  };
  // Where a tile of a stream lies. `stream` is layer * heads + head, both counted from the first
  // held; tile t has the stripe-local tokens from t * kKvTileTokens on.
  Place Tile(uint64_t stream, uint64_t tile) const {
    const uint64_t extent = stream * layout_.extents_per_stream + tile / layout_.tiles_per_extent;
    return {extents_[extent], tile % layout_.tiles_per_extent * layout_.tile.record_bytes};
  }

 private:
  ShardLayout layout_;
  std::vector<ExtentId> extents_;  // [stream][extents_per_stream]
};

}  // namespace tributary
