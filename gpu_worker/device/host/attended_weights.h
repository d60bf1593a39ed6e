// The softmax weights of one KV head's resident attention, for a policy's facet. The attention leaves them behind tile
// by tile, each relative to the maximum that was known when it was attended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "gpu_worker/device/host/attend_tile.h"
#include "gpu_worker/device/host/policy/host_facet.h"

namespace tributary {

// One per thread. Allocates in Reserve() alone. Thread-compatible.
class AttendedWeights {
 public:
  explicit AttendedWeights(uint32_t group_size) : group_size_(group_size) {}

  // Makes room for the weights of this many tokens.
  void Reserve(size_t max_tokens);

  void Begin();
  // Adds the weights of the tile that `state` attended last, which is these slots.
  void AddTile(const AttendState& state, SlotRange slots);
  // Normalised, tile by tile, given the whole softmax's lse_ln, [group_size]. Valid until Begin().
  std::span<const WeightRun> Finish(const float* lse_ln);

 private:
  const uint32_t group_size_;
  std::vector<float> weights_;   // [group_size][slots] of each tile, one tile after the other
  std::vector<WeightRun> runs_;  // by tile
  std::vector<float> maxima_;    // [tile][group_size]
  size_t num_tokens_ = 0;
};

}  // namespace tributary
