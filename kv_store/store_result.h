// What storing KV answers: the store's own errors, which know no frames. A service that speaks frames converts them at
// its edge (cpu_attention_service/node/store_frames.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/ids.h"

namespace tributary {

enum class StoreError : uint8_t {
  kOk = 0,
  kUnknownShard,  // never opened, or closed
  kStaleEpoch,    // the shard is of another epoch of its sequence
  kOutOfRange,    // layer or tokens outside the shard, no tokens, or more than one run of its stripe
  kBadGeometry,   // rows of another size or dtype than the call says
  kExhausted,     // too many gaps: send again when earlier tokens are stored
  kOtherContent,  // some of the tokens are stored already, and are not the same
  kCorrupt,       // a tile that has some of the tokens no longer has the bytes that were stored
  kBusy,          // another thread is storing into one of the tiles: try again
  kNeedsOwner,    // of a storer that is not the owner: the tokens join a tile that attention reads already
};
inline constexpr uint32_t kNumStoreErrors = 10;
// Lower-case words with underscores ("other_content"): a metric's label.
std::string_view StoreErrorName(StoreError error);

// One tile of one shard.
struct TilePlace {
  ShardId shard;
  uint32_t layer = 0;    // absolute
  uint32_t kv_head = 0;  // counts from the first one held
  uint64_t tile = 0;     // of the stripe-local tokens [64 tile, 64 tile + 64)

  friend bool operator==(const TilePlace&, const TilePlace&) = default;
};
// "shard 5, layer 2, KV head 1, tile 7 (stripe-local tokens 448 to 511)"
std::string ToString(const TilePlace& place);

// Unless the error is kOk nothing was stored.
struct StoreResult {
  StoreError error = StoreError::kOk;
  uint64_t new_tokens = 0;     // of those given; the others were stored before, with the same content
  uint64_t stored_tokens = 0;  // of the layer, without a gap, as far as readers see them
  TilePlace place;             // kOtherContent, kCorrupt: the first such tile

  bool ok() const { return error == StoreError::kOk; }
};

}  // namespace tributary
