#include "gpu_worker/device/layer_map.h"

#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(LayerMapTest, ShardsCountTheLayersThatAreNotWindowed) {
  const std::vector<uint32_t> windowed = {0, 2, 3};
  const LayerMap layers(6, windowed);
  EXPECT_EQ(layers.num_layers(), 6u);
  EXPECT_EQ(layers.num_shard_layers(), 3u);
  EXPECT_TRUE(layers.is_windowed(0));
  EXPECT_FALSE(layers.is_windowed(1));
  for (const auto& [model, shard] : {std::pair{1u, 0u}, {4u, 1u}, {5u, 2u}}) {
    EXPECT_EQ(layers.shard_layer(model), shard);
    EXPECT_EQ(layers.model_layer(shard), model);
  }
}

TEST(LayerMapTest, WithoutWindowedLayersNumbersAreTheSame) {
  const LayerMap layers(3, {});
  EXPECT_EQ(layers.num_shard_layers(), 3u);
  for (uint32_t layer = 0; layer < 3; ++layer) EXPECT_EQ(layers.shard_layer(layer), layer);
}

}  // namespace
}  // namespace tributary
