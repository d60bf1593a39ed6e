#include "cpu_attention_service/node/stored_check.h"

#include <algorithm>

namespace tributary {
namespace {

constexpr uint64_t kItemBytes = 256u << 10;
constexpr uint64_t kSliceBytesPerThread = 2u << 20;  // between two calls of `between`

}  // namespace

void StoredCheck::CheckNew(KvShard& shard, uint32_t layer, uint64_t stored) {
  const uint64_t record_bytes = shard.tile_layout().record_bytes;
  const uint32_t heads = shard.spec().num_kv_heads_held();
  const uint64_t first_tile = shard.checked_tokens(layer) / kKvTileTokens;
  const uint64_t num_tiles = KvTilesFor(stored) - first_tile;
  const uint64_t item_tiles = std::clamp<uint64_t>(kItemBytes / record_bytes, 1, num_tiles);
  const uint64_t items_per_head = (num_tiles + item_tiles - 1) / item_tiles;
  const uint64_t num_items = items_per_head * heads;
  const auto check = [&](uint64_t item) {
    const uint64_t begin = first_tile + item % items_per_head * item_tiles;
    const auto head = static_cast<uint32_t>(item / items_per_head);
    shard.AreIntact(layer, head, begin, std::min(begin + item_tiles, first_tile + num_tiles));
  };
  if (num_items == 1 || num_tiles * heads * record_bytes <= kItemBytes) {  // not worth waking others
    for (uint64_t item = 0; item < num_items; ++item) check(item);
  } else {
    const uint64_t slice_items =
        std::max<uint64_t>(1, static_cast<uint64_t>(executor_->num_threads()) * kSliceBytesPerThread / kItemBytes);
    for (uint64_t done = 0; done < num_items; done += slice_items) {
      if (done > 0) between_();
      const auto count = static_cast<uint32_t>(std::min(slice_items, num_items - done));
      executor_->ForEach(count, [&](uint32_t i) { check(done + i); });
    }
  }
  checked_bytes_ += num_tiles * heads * record_bytes;
  // What is corrupt stays known to the shard.
  shard.SetChecked(layer, stored);
}

}  // namespace tributary
