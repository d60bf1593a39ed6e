#include "kv_store/shard_scrub.h"

#include <gtest/gtest.h>

#include "base/clock.h"
#include "tests/unit/kv_store/shard_rows.h"

namespace tributary {
namespace {

using testing::FlipBit;
using testing::SmallSpec;
using testing::Store;

constexpr uint64_t kRecordBytes = 8192;  // of SmallSpec

class ShardScrubTest : public ::testing::Test {
 protected:
  std::shared_ptr<KvShard> OpenFilled(uint64_t id, DType dtype, uint64_t tokens) {
    ShardSpec spec = SmallSpec(id);
    spec.k_dtype = spec.v_dtype = dtype;
    auto shard = *store_->Open(spec);
    for (uint32_t layer = 0; layer < 2; ++layer) EXPECT_TRUE(Store(*shard, layer, {0, tokens}).ok());
    return shard;
  }
  // Until the pass that begins now has ended.
  void RunPass(ShardScrub& scrub) {
    const uint64_t passes = scrub.progress().num_passes;
    for (int i = 0; i < 10'000 && scrub.progress().num_passes == passes; ++i) scrub.RunSlice(now_ns_ += kNsPerS);
    ASSERT_EQ(scrub.progress().num_passes, passes + 1);
  }

  std::unique_ptr<ShardStore> store_ =
      *ShardStore::Create({.arena = {.bytes = size_t{16} << 20}, .extent_bytes = 16 << 10});
  int64_t now_ns_ = 0;
};

TEST_F(ShardScrubTest, APassReadsEveryTile) {
  OpenFilled(3, DType::kF32, 300);
  OpenFilled(9, DType::kF32, 64);
  ShardScrub scrub(store_.get(), {.slice_bytes = 3 * kRecordBytes});
  RunPass(scrub);
  EXPECT_EQ(scrub.progress().checked_tiles, 4u * 5 + 4 * 1);
  EXPECT_EQ(scrub.progress().checked_bytes, scrub.progress().checked_tiles * kRecordBytes);
  RunPass(scrub);
  EXPECT_EQ(scrub.progress().checked_tiles, 2u * 24);
  EXPECT_EQ(store_->counters().corrupt_tiles, 0u);
}

TEST_F(ShardScrubTest, FindsAFlippedBitOfAnyStorageAnywhere) {
  uint64_t id = 1, corrupt = 0;
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16, DType::kInt8, DType::kInt4, DType::kFp8E4m3}) {
    const auto shard = OpenFilled(id++, dtype, 200);
    ShardScrub scrub(store_.get(), {});
    FlipBit(*shard, 1, 1, 3, 0);  // the last tile, which is not full
    RunPass(scrub);
    EXPECT_EQ(store_->counters().corrupt_tiles, ++corrupt);
    EXPECT_EQ(shard->first_corrupt_token(1), 192u);
    EXPECT_EQ(shard->first_corrupt_token(0), ~uint64_t{0});
    FlipBit(*shard, 0, 0, 1, size_t{shard->tile_layout().record_bytes} * 8 - 1);
    RunPass(scrub);
    EXPECT_EQ(store_->counters().corrupt_tiles, ++corrupt);
    EXPECT_EQ(*shard->FirstCorruptTile(0), (TilePlace{shard->spec().shard_id, 0, 0, 1}));
    RunPass(scrub);
    EXPECT_EQ(store_->counters().corrupt_tiles, corrupt);  // once each
  }
}

TEST_F(ShardScrubTest, KeepsToItsRate) {
  OpenFilled(3, DType::kF32, 900);
  ShardScrub scrub(store_.get(), {.bytes_per_second = 1 << 20, .slice_bytes = 4 * kRecordBytes});
  for (int64_t now_ns = 0; now_ns < 10 * kNsPerS; now_ns += kNsPerMs)
    EXPECT_LE(scrub.RunSlice(now_ns), 4 * kRecordBytes);
  EXPECT_LE(scrub.progress().checked_bytes, 10u << 20);
  EXPECT_GE(scrub.progress().checked_bytes, 9u << 20);
  ShardScrub none(store_.get(), {.bytes_per_second = 0});
  EXPECT_EQ(none.RunSlice(kNsPerS), 0u);
  EXPECT_EQ(none.progress().num_passes, 0u);
}

TEST_F(ShardScrubTest, ShardsComeAndGoDuringAPass) {
  ShardScrub scrub(store_.get(), {.slice_bytes = 2 * kRecordBytes});
  EXPECT_EQ(scrub.RunSlice(now_ns_), 0u);  // nothing is there
  for (uint64_t id : {2, 4, 6}) OpenFilled(id, DType::kF32, 300);
  for (int i = 0; i < 12; ++i) scrub.RunSlice(now_ns_ += kNsPerS);
  EXPECT_GT(scrub.pass_share(), 0.3);
  EXPECT_LT(scrub.pass_share(), 0.7);
  EXPECT_TRUE(store_->Drop(ShardId(4)));  // where it is
  OpenFilled(5, DType::kF32, 64);
  OpenFilled(1, DType::kF32, 64);  // behind it
  RunPass(scrub);
  EXPECT_EQ(scrub.pass_share(), 0.0);
  const uint64_t before = scrub.progress().checked_tiles;
  RunPass(scrub);
  EXPECT_EQ(scrub.progress().checked_tiles - before, 2u * 20 + 2 * 4);
}

}  // namespace
}  // namespace tributary
