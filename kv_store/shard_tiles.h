// The tiles of one shard and their CRCs: where they lie, how rows get into them, whether they still have the bytes that
// were stored. Knows streams and tiles; which tokens are there is LayerTokens' business.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/kv_pack.h"
#include "cluster/shard_spec.h"
#include "kv_store/block_pool.h"
#include "kv_store/block_table.h"
#include "kv_store/layer_tokens.h"
#include "kv_store/row_packer.h"
#include "kv_store/tile_checks.h"

namespace tributary {

// Rows of one head: those of tokens [first_token, ...).
struct GivenRows {
  HeadRows k;
  HeadRows v;
  uint64_t first_token = 0;  // stripe-local
};

// Different tiles may be written by different threads at once. A tile may be read while nobody writes to it.
class ShardTiles {
 public:
  // INVALID_ARGUMENT: Validate(spec), or a tile larger than an extent. RESOURCE_EXHAUSTED: the needed and the free
  // bytes. The pool outlives the tiles.
  static absl::StatusOr<std::unique_ptr<ShardTiles>> Open(const ShardSpec& spec, BlockPool* pool, KvPackFn pack);
  // Bytes that Open would reserve from a pool with such extents, those of the CRCs included.
  static absl::StatusOr<uint64_t> ReservedBytes(const ShardSpec& spec, size_t extent_bytes);
  ~ShardTiles();  // gives the extents back
  ShardTiles(const ShardTiles&) = delete;
  ShardTiles& operator=(const ShardTiles&) = delete;

  const ShardLayout& layout() const { return table_.layout(); }
  uint64_t reserved_bytes() const { return num_extents_ * pool_->extent_bytes(); }

  std::byte* Tile(uint64_t stream, uint64_t tile) const {
    const BlockTable::Place place = table_.Tile(stream, tile);
    return pool_->data(place.extent) + place.offset_bytes;
  }

  // Writes the rows of a run of tokens and the CRCs of the tiles that they touch. A tile without tokens is cleared
  // before, unless the run fills it: kernels mask what is not stored, but 0 x NaN is NaN, and the memory may have been
  // another shard's. REQUIRES: IsIntact() of tiles with tokens, whose CRC would else vouch for what is wrong in them.
  void Write(uint64_t stream, const StoreClaim::Missing& run, const GivenRows& rows);
  // The first tile in which the tokens, all of them stored, are not what Write() would make of the rows. Allocates.
  std::optional<uint64_t> FirstOtherTile(uint64_t stream, TokenRange tokens, const GivenRows& rows) const;

  // Whether the tile has the bytes that were stored. REQUIRES: any tokens in it.
  bool IsIntact(uint64_t stream, uint64_t tile) const;

 private:
  ShardTiles(BlockPool* pool, KvPackFn pack, BlockTable table, std::vector<ExtentId> check_extents);
  uint32_t WholeTiles(TokenRange tokens) const;
  uint32_t CrcOf(uint64_t stream, uint64_t tile) const;

  BlockPool* const pool_;
  const KvPackFn pack_;
  const BlockTable table_;
  TileChecks checks_;
  const uint64_t num_extents_;
};

}  // namespace tributary
