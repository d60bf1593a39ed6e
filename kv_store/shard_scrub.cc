#include "kv_store/shard_scrub.h"

#include <algorithm>

#include "base/clock.h"

namespace tributary {
namespace {

uint64_t NumStreams(const ShardSpec& spec) { return uint64_t{spec.num_layers_held()} * spec.num_kv_heads_held(); }

}  // namespace

uint64_t ShardScrub::RunSlice(int64_t now_ns) {
  if (options_.bytes_per_second == 0 || now_ns < next_slice_ns_ || store_->shards().empty()) return 0;
  uint64_t bytes = 0;
  // A stream without new tiles costs nothing but the look at it; there may be many, so only so many at once.
  constexpr int kMaxStreams = 64;
  for (int i = 0; i < kMaxStreams && bytes < options_.slice_bytes; ++i) {
    KvShard* const shard = ShardAtCursor();
    if (shard == nullptr) {
      ++progress_.num_passes;
      cursor_ = {};
      break;
    }
    bytes += CheckAtCursor(*shard, options_.slice_bytes - bytes);
  }
  progress_.checked_bytes += bytes;
  const double slice_ns = static_cast<double>(bytes) * kNsPerS / static_cast<double>(options_.bytes_per_second);
  // Also where nothing is stored, a pass is not begun again and again.
  constexpr int64_t kMinGapNs = 100 * kNsPerUs;
  next_slice_ns_ = now_ns + std::max(kMinGapNs, static_cast<int64_t>(slice_ns));
  return bytes;
}

// The cursor's shard, or the next one if that is closed or done with; null at the end of the pass.
KvShard* ShardScrub::ShardAtCursor() {
  const ShardStore::Shards& shards = store_->shards();
  auto it = shards.lower_bound(cursor_.shard);
  if (it != shards.end() && it->first == cursor_.shard && cursor_.stream >= NumStreams(it->second->spec())) ++it;
  if (it == shards.end()) return nullptr;
  if (it->first != cursor_.shard) cursor_ = {.shard = it->first};
  return cursor_.stream < NumStreams(it->second->spec()) ? it->second.get() : nullptr;
}

// As many of the stream's tiles as the bytes allow. Moves the cursor on.
uint64_t ShardScrub::CheckAtCursor(KvShard& shard, uint64_t max_bytes) {
  const ShardSpec& spec = shard.spec();
  const uint64_t record_bytes = shard.tile_layout().record_bytes;
  const uint32_t layer = spec.layer_begin + static_cast<uint32_t>(cursor_.stream / spec.num_kv_heads_held());
  const auto head = static_cast<uint32_t>(cursor_.stream % spec.num_kv_heads_held());
  const uint64_t num_tiles = KvTilesFor(shard.stored_tokens(layer));
  const uint64_t end = std::min(num_tiles, cursor_.tile + std::max<uint64_t>(1, max_bytes / record_bytes));
  const uint64_t begin = std::min(cursor_.tile, end);
  for (uint64_t tile = begin; tile < end; ++tile) shard.AreIntact(layer, head, tile, tile + 1);
  cursor_.tile = end;
  if (end == num_tiles) cursor_ = {.shard = cursor_.shard, .stream = cursor_.stream + 1};
  progress_.checked_tiles += end - begin;
  return (end - begin) * record_bytes;
}

double ShardScrub::pass_share() const {
  uint64_t done = cursor_.stream, total = 0;
  for (const auto& [id, shard] : store_->shards()) {
    const uint64_t streams = NumStreams(shard->spec());
    total += streams;
    if (id < cursor_.shard) done += streams;
  }
  return total == 0 ? 0.0 : static_cast<double>(done) / static_cast<double>(total);
}

}  // namespace tributary
