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
  const ShardLayout layout =
      *ShardLayout::Make(Spec(64, 5000, DType::kBf16, DType::kBf16), 256 << 10);
  EXPECT_EQ(layout.tokens_per_run, 2048u);
  EXPECT_EQ(layout.k.row_bytes, 128u);
  EXPECT_EQ(layout.k.runs_per_extent, 1u);
  EXPECT_EQ(layout.k.num_extents, 3u);
  EXPECT_EQ(layout.num_extents(), 72u);

  const TokenStripe stripe{.origin = 64, .stripe_tokens = 64, .num_stripes = 2, .stripe_idx = 1};
  ASSERT_TRUE(stripe.Owns(300));
  EXPECT_EQ(stripe.LocalIndex(300), 108u);
  std::vector<ExtentId> extents(layout.num_extents());
  std::iota(extents.begin(), extents.end(), 0);  // so that an extent's id is its table entry
  const BlockTable table(layout, extents);
  const uint64_t stream = 2 * 2 + 1;
  EXPECT_EQ(table.K(stream, 108).extent, 30u);
  EXPECT_EQ(table.K(stream, 108).offset_bytes, 13824u);
  EXPECT_EQ(table.V(stream, 108).extent, 33u);
  EXPECT_EQ(table.V(stream, 108).offset_bytes, 13824u);
}

TEST(ShardLayoutTest, UnlikeDTypesShareRunsButNotExtents) {
  const ShardLayout layout =
      *ShardLayout::Make(Spec(64, 5000, DType::kF32, DType::kBf16), 256 << 10);
  EXPECT_EQ(layout.tokens_per_run, 1024u);
  EXPECT_EQ(layout.k.runs_per_extent, 1u);
  EXPECT_EQ(layout.v.runs_per_extent, 2u);
  EXPECT_EQ(layout.k.num_extents, 5u);
  EXPECT_EQ(layout.v.num_extents, 3u);
}

TEST(ShardLayoutTest, LongRunsAreWholeTilesAndShortOnesWhatFits) {
  // 262144 / 160 = 1638.4 rows of head_dim 80: 25 tiles of 64.
  EXPECT_EQ(ShardLayout::Make(Spec(80, 1, DType::kF16, DType::kF16), 256 << 10)->tokens_per_run,
            1600u);
  EXPECT_EQ(ShardLayout::Make(Spec(256, 1, DType::kF32, DType::kF32), 4096)->tokens_per_run, 4u);
  EXPECT_EQ(ShardLayout::Make(Spec(200, 1, DType::kF32, DType::kF32), 4096)->tokens_per_run, 5u);
}

TEST(ShardLayoutTest, RowLongerThanAnExtent) {
  const absl::Status status =
      ShardLayout::Make(Spec(256, 1, DType::kF32, DType::kBf16), 512).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("1024 bytes, more than an extent of 512"),
            std::string::npos);
}

// Every row of every stream has its own bytes, inside its extent, and rows of a run are
// consecutive.
TEST(BlockTableTest, RowsNeverOverlap) {
  for (auto [k_dtype, v_dtype] : {std::pair{DType::kF32, DType::kBf16},
                                  {DType::kBf16, DType::kBf16},
                                  {DType::kF16, DType::kF32}}) {
    const uint64_t capacity = 203;
    const ShardLayout layout = *ShardLayout::Make(Spec(40, capacity, k_dtype, v_dtype), 4096);
    std::vector<ExtentId> extents(layout.num_extents());
    std::iota(extents.rbegin(), extents.rend(), 0);
    const BlockTable table(layout, extents);
    std::set<std::pair<ExtentId, size_t>> bytes;
    for (uint64_t stream = 0; stream < layout.num_streams; ++stream) {
      for (uint64_t token = 0; token < capacity; ++token) {
        for (bool is_k : {true, false}) {
          const StreamLayout& rows = is_k ? layout.k : layout.v;
          const BlockTable::Place place = is_k ? table.K(stream, token) : table.V(stream, token);
          ASSERT_LE(place.offset_bytes + rows.row_bytes, 4096u);
          for (size_t i = 0; i < rows.row_bytes; ++i) {
            ASSERT_TRUE(bytes.emplace(place.extent, place.offset_bytes + i).second);
          }
          if (token % layout.tokens_per_run == 0) continue;
          const BlockTable::Place before =
              is_k ? table.K(stream, token - 1) : table.V(stream, token - 1);
          ASSERT_EQ(place.extent, before.extent);
          ASSERT_EQ(place.offset_bytes, before.offset_bytes + rows.row_bytes);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tributary
