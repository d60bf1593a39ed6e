#include "kv_store/shard_tiles.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/crc32c.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr uint32_t kMaxTilesPerPack = 64;  // whose CRCs find room on the stack

uint64_t NumExtents(const ShardLayout& layout, size_t extent_bytes) {
  return layout.num_extents() + TileChecks::NumExtents(layout, extent_bytes);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShardTiles>> ShardTiles::Open(const ShardSpec& spec, BlockPool* pool, KvPackFn pack) {
  TRIBUTARY_ASSIGN_OR_RETURN(const ShardLayout layout, ShardLayout::Make(spec, pool->extent_bytes()));
  const uint64_t num_extents = NumExtents(layout, pool->extent_bytes());
  if (num_extents > pool->num_free()) {
    return absl::ResourceExhaustedError(
        fmt::format("shard {} of sequence {}: {} bytes needed, {} free of {} in the KV pool; wait until other "
                    "sequences end, or give the node a larger pool",
                    spec.shard_id.value, spec.sequence_id.value, num_extents * pool->extent_bytes(), pool->free_bytes(),
                    pool->capacity_bytes()));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(
      std::vector<ExtentId> tiles,
      pool->Acquire(static_cast<uint32_t>(layout.num_streams), static_cast<uint32_t>(layout.extents_per_stream)));
  absl::StatusOr<std::vector<ExtentId>> checks =
      pool->Acquire(static_cast<uint32_t>(TileChecks::NumExtents(layout, pool->extent_bytes())));
  if (!checks.ok()) {  // somebody else was faster
    pool->Release(tiles);
    return checks.status();
  }
  return std::unique_ptr<ShardTiles>(
      new ShardTiles(pool, pack, BlockTable(layout, std::move(tiles)), *std::move(checks)));
}

absl::StatusOr<uint64_t> ShardTiles::ReservedBytes(const ShardSpec& spec, size_t extent_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(const ShardLayout layout, ShardLayout::Make(spec, extent_bytes));
  return NumExtents(layout, extent_bytes) * extent_bytes;
}

ShardTiles::ShardTiles(BlockPool* pool, KvPackFn pack, BlockTable table, std::vector<ExtentId> check_extents)
    : pool_(pool),
      pack_(pack),
      table_(std::move(table)),
      checks_(table_.layout(), pool, std::move(check_extents)),
      num_extents_(NumExtents(table_.layout(), pool->extent_bytes())) {}

ShardTiles::~ShardTiles() {
  pool_->Release(table_.extents());
  pool_->Release(checks_.extents());
}

// Tiles that the tokens fill from their first on, in one extent; 0 if not even one.
uint32_t ShardTiles::WholeTiles(TokenRange tokens) const {
  if (tokens.begin % kKvTileTokens != 0) return 0;
  const uint64_t first = tokens.begin / kKvTileTokens;
  const uint64_t in_extent = layout().tiles_per_extent - first % layout().tiles_per_extent;
  return static_cast<uint32_t>(
      std::min({tokens.size() / kKvTileTokens, in_extent, static_cast<uint64_t>(kMaxTilesPerPack)}));
}

void ShardTiles::Write(uint64_t stream, const StoreClaim::Missing& run, const GivenRows& rows) {
  const KvTileLayout& tile_layout = layout().tile;
  for (uint64_t pos = run.tokens.begin; pos < run.tokens.end;) {
    const uint64_t tile = pos / kKvTileTokens;
    std::byte* const record = Tile(stream, tile);
    const HeadRows k = rows.k.After(pos - rows.first_token);
    const HeadRows v = rows.v.After(pos - rows.first_token);
    if (const uint32_t whole = WholeTiles({pos, run.tokens.end}); whole > 0) {
      uint32_t crcs[kMaxTilesPerPack];
      PackHeadRows(pack_, tile_layout, k, v, record, 0, whole * kKvTileTokens, crcs);
      for (uint32_t i = 0; i < whole; ++i) checks_.Set(stream, tile + i, crcs[i]);
      pos += uint64_t{whole} * kKvTileTokens;
      continue;
    }
    const uint64_t end = std::min(run.tokens.end, (tile + 1) * kKvTileTokens);
    const bool has_tokens = pos == run.tokens.begin ? run.first_tile_has_tokens : run.last_tile_has_tokens;
    if (!has_tokens) std::memset(record, 0, tile_layout.record_bytes);
    PackHeadRows(pack_, tile_layout, k, v, record, pos % kKvTileTokens, static_cast<uint32_t>(end - pos));
    checks_.Set(stream, tile, CrcOf(stream, tile));
    pos = end;
  }
}

// Packs the rows over a copy of each tile: equal content leaves it as it is, whatever the storage, since a token's bits
// depend on its row alone.
std::optional<uint64_t> ShardTiles::FirstOtherTile(uint64_t stream, TokenRange tokens, const GivenRows& rows) const {
  const KvTileLayout& tile_layout = layout().tile;
  AlignedBuffer<std::byte> copy(tile_layout.record_bytes);
  for (uint64_t pos = tokens.begin; pos < tokens.end;) {
    const uint64_t tile = pos / kKvTileTokens;
    const uint64_t end = std::min(tokens.end, (tile + 1) * kKvTileTokens);
    const std::byte* const record = Tile(stream, tile);
    std::memcpy(copy.data(), record, tile_layout.record_bytes);
    PackHeadRows(pack_, tile_layout, rows.k.After(pos - rows.first_token), rows.v.After(pos - rows.first_token),
                 copy.data(), pos % kKvTileTokens, static_cast<uint32_t>(end - pos));
    if (std::memcmp(copy.data(), record, tile_layout.record_bytes) != 0) return tile;
    pos = end;
  }
  return std::nullopt;
}

uint32_t ShardTiles::CrcOf(uint64_t stream, uint64_t tile) const {
  return Crc32c({Tile(stream, tile), layout().tile.record_bytes});
}

bool ShardTiles::IsIntact(uint64_t stream, uint64_t tile) const {
  return CrcOf(stream, tile) == checks_.Get(stream, tile);
}

}  // namespace tributary
