// The softmax weights of one KV head's resident attention, which its tiles leave behind: every tile is relative to the
// maximum that was known when it was attended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "gpu_worker/device/host/attend_tile.h"
#include "policy/hgca/maw_update.h"

namespace tributary {

// One per thread. Allocates in Reserve() alone. Thread-compatible.
class TileWeights {
 public:
  explicit TileWeights(uint32_t group_size) : group_size_(group_size) {}

  // Makes room for the weights of this many tokens.
  void Reserve(size_t max_tokens);

  void Begin();
  // Of the tile that `state` attended last.
  void AddTile(const AttendState& state, size_t tokens);
  // A of all tokens (policy/hgca/maw.h), given the whole softmax's lse_ln, [group_size]. Valid until Begin().
  std::span<const float> Finish(GroupAggregate how, const float* lse_ln);

 private:
  const uint32_t group_size_;
  std::vector<float> aggregate_;
  // [group_size][tokens] of each tile, and its maxima, one tile after the other.
  std::vector<float> weights_;
  struct Tile {
    size_t begin, tokens;  // of the tokens
  };
  std::vector<Tile> tiles_;
  std::vector<float> maxima_;  // [tile][group_size]
  size_t num_tokens_ = 0;
};

}  // namespace tributary
