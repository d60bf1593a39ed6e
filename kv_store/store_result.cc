#include "kv_store/store_result.h"

#include <array>

#include "attention/kv/kv_tile_layout.h"
#include "fmt/format.h"

namespace tributary {

std::string_view StoreErrorName(StoreError error) {
  static constexpr std::array<std::string_view, kNumStoreErrors> kNames = {
      "ok",        "unknown_shard", "stale_epoch", "out_of_range", "bad_geometry",
      "exhausted", "other_content", "corrupt",     "busy",         "needs_owner"};
  const auto index = static_cast<size_t>(error);
  return index < kNames.size() ? kNames[index] : "unknown";
}

std::string ToString(const TilePlace& place) {
  return fmt::format("shard {}, layer {}, KV head {}, tile {} (stripe-local tokens {} to {})", place.shard.value,
                     place.layer, place.kv_head, place.tile, place.tile * kKvTileTokens,
                     place.tile * kKvTileTokens + kKvTileTokens - 1);
}

}  // namespace tributary
