// Which of a model's layers have KV in shards, and under which number: layers whose attention sees a window only keep
// their KV on the worker, and shards hold the others, counted from 0.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"

namespace tributary {

class LayerMap {
 public:
  static constexpr uint32_t kWindowed = ~uint32_t{0};

  LayerMap() = default;
  // `windowed`: those of the layers [0, num_layers) that are not in shards.
  LayerMap(uint32_t num_layers, std::span<const uint32_t> windowed) : shard_layers_(num_layers, 0) {
    for (const uint32_t layer : windowed) shard_layers_[layer] = kWindowed;
    for (uint32_t layer = 0; layer < num_layers; ++layer) {
      if (shard_layers_[layer] == kWindowed) continue;
      shard_layers_[layer] = num_shard_layers();
      model_layers_.push_back(layer);
    }
  }

  uint32_t num_layers() const { return static_cast<uint32_t>(shard_layers_.size()); }
  uint32_t num_shard_layers() const { return static_cast<uint32_t>(model_layers_.size()); }
  bool is_windowed(uint32_t layer) const { return shard_layers_[layer] == kWindowed; }
  // The number in shards, frames and policies of a layer that is not windowed.
  uint32_t shard_layer(uint32_t layer) const {
    TRIBUTARY_CHECK(!is_windowed(layer));
    return shard_layers_[layer];
  }
  uint32_t model_layer(uint32_t shard_layer) const { return model_layers_[shard_layer]; }

 private:
  std::vector<uint32_t> shard_layers_;  // by model layer
  std::vector<uint32_t> model_layers_;  // by shard layer
};

}  // namespace tributary
