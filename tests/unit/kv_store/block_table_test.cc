#include "kv_store/block_table.h"

#include <numeric>
#include <set>
#include <utility>

#include "gtest/gtest.h"

namespace tributary {
namespace {

ShardSpec Spec(uint32_t head_dim, uint64_t capacity_tokens, DType k_dtype, DType v_dtype) {
  ShardSpec spec;
  spec.model = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = head_dim};
  spec.num_layers = spec.layer_end = 6;
  spec.kv_head_end = 2;
  spec.capacity_tokens = capacity_tokens;
  spec.k_dtype = k_dtype;
  spec.v_dtype = v_dtype;
  return spec;
}

TEST(ShardLayoutTest, ExampleOfFormatMd) {
  const ShardLayout layout = *ShardLayout::Make(Spec(64, 5000, DType::kBf16, DType::kBf16), 256 << 10);
  EXPECT_EQ(layout.tile.record_bytes, 16384u);
  EXPECT_EQ(layout.tiles_per_extent, 16u);
  EXPECT_EQ(layout.tokens_per_extent(), 1024u);
  EXPECT_EQ(layout.extents_per_stream, 5u);
  EXPECT_EQ(layout.num_extents(), 60u);

  const TokenStripe stripe{.origin = 64, .stripe_tokens = 64, .num_stripes = 2, .stripe_idx = 1};
  ASSERT_TRUE(stripe.Owns(3364));
  EXPECT_EQ(stripe.LocalIndex(3364), 1636u);
  std::vector<ExtentId> extents(layout.num_extents());
  std::iota(extents.begin(), extents.end(), 0);  // so that an extent's id is its table entry
  const BlockTable table(layout, extents);
  const uint64_t stream = 2 * 2 + 1;
  EXPECT_EQ(table.Tile(stream, 1636 / 64).extent, 26u);
  EXPECT_EQ(table.Tile(stream, 1636 / 64).offset_bytes, 147456u);
  EXPECT_EQ(KvKElementIndex(layout.tile, 1636 % 64, 10) * 2, 4432u);
  EXPECT_EQ(layout.tile.v_begin + KvVElementIndex(layout.tile, 1636 % 64, 10) * 2, 12840u);

  const ShardLayout int8 = *ShardLayout::Make(Spec(64, 5000, DType::kInt8, DType::kInt8), 256 << 10);
  EXPECT_EQ(int8.tile.record_bytes, 8448u);
  EXPECT_EQ(int8.tiles_per_extent, 31u);
  EXPECT_EQ(int8.num_extents(), 36u);
}

TEST(ShardLayoutTest, ATileLargerThanAnExtent) {
  const absl::Status status = ShardLayout::Make(Spec(256, 1, DType::kF32, DType::kBf16), 64 << 10).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("take 98304 bytes, more than an extent of 65536"), std::string::npos);
}

// Every tile of every stream has its own bytes, inside its extent.
TEST(BlockTableTest, TilesNeverOverlap) {
  for (auto [k_dtype, v_dtype] :
       {std::pair{DType::kF32, DType::kBf16}, {DType::kBf16, DType::kInt4}, {DType::kInt8, DType::kF32}}) {
    constexpr size_t kExtentBytes = 64 << 10;
    const ShardLayout layout = *ShardLayout::Make(Spec(40, 1203, k_dtype, v_dtype), kExtentBytes);
    std::vector<ExtentId> extents(layout.num_extents());
    std::iota(extents.rbegin(), extents.rend(), 0);
    const BlockTable table(layout, extents);
    std::set<std::pair<ExtentId, size_t>> lines;
    for (uint64_t stream = 0; stream < layout.num_streams; ++stream) {
      for (uint64_t tile = 0; tile < KvTilesFor(1203); ++tile) {
        const BlockTable::Place place = table.Tile(stream, tile);
        ASSERT_LE(place.offset_bytes + layout.tile.record_bytes, kExtentBytes);
        ASSERT_EQ(place.offset_bytes % kKvTileAlignBytes, 0u);
        for (size_t i = 0; i < layout.tile.record_bytes; i += kKvTileAlignBytes) {
          ASSERT_TRUE(lines.emplace(place.extent, place.offset_bytes + i).second);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tributary
