// The same content again is fine, other content is refused, and bytes that changed are found: for every storage.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/aligned_buffer.h"
#include "tests/testutil/test_seed.h"
#include "tests/unit/kv_store/shard_rows.h"

namespace tributary {
namespace {

using testing::FlipBit;
using testing::Rows;
using testing::SmallSpec;
using testing::Store;
using testing::TileBytes;

class ShardContentTest : public ::testing::TestWithParam<DType> {
 protected:
  ShardSpec Spec() const {
    ShardSpec spec = SmallSpec();
    spec.k_dtype = spec.v_dtype = GetParam();
    return spec;
  }
  std::unique_ptr<KvShard> OpenShard() { return *KvShard::Open(Spec(), &pool_, &PackKvPlain, &counters_); }

  AlignedBuffer<std::byte> region_{size_t{2} << 20};
  BlockPool pool_{region_.span(), 16 << 10};
  StoreCounters counters_;
  const uint64_t seed_ = TestSeed();
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
};

// Ragged ranges, gaps, single tokens, in any order: what was stored before is compared, what was not is stored.
TEST_P(ShardContentTest, TheSameContentAgainInAnyOverlap) {
  for (int round = 0; round < 20; ++round) {
    const auto shard = OpenShard();
    std::vector<bool> stored(300);
    for (int i = 0; i < 30; ++i) {
      const auto begin = RandomInt<uint64_t>(random_, 0, 299);
      const auto size = RandomInt<uint64_t>(random_, 1, i % 3 == 0 ? 1 : 150);
      const TokenRange tokens{begin, std::min<uint64_t>(300, begin + size)};
      const auto news = static_cast<uint64_t>(std::count(stored.begin() + static_cast<ptrdiff_t>(begin),
                                                         stored.begin() + static_cast<ptrdiff_t>(tokens.end), false));
      const StoreResult result = Store(*shard, 1, tokens);
      ASSERT_EQ(result.error, StoreError::kOk);
      ASSERT_EQ(result.new_tokens, news);
      std::fill(stored.begin() + static_cast<ptrdiff_t>(begin), stored.begin() + static_cast<ptrdiff_t>(tokens.end),
                true);
    }
    ASSERT_TRUE(Store(*shard, 1, {0, 300}).ok());
    // However it was cut, the bytes and the CRCs are those of one store.
    const auto whole = OpenShard();
    ASSERT_TRUE(Store(*whole, 1, {0, 300}).ok());
    for (uint32_t head = 0; head < 2; ++head) {
      EXPECT_TRUE(shard->AreIntact(1, head, 0, 5));
      for (uint64_t tile = 0; tile < 5; ++tile) {
        ASSERT_EQ(TileBytes(*shard, 1, head, tile), TileBytes(*whole, 1, head, tile));
      }
    }
  }
}

TEST_P(ShardContentTest, OtherContentIsRefusedAndStoresNothing) {
  const auto shard = OpenShard();
  ASSERT_TRUE(Store(*shard, 0, {0, 40}).ok());
  ASSERT_TRUE(Store(*shard, 0, {60, 100}).ok());
  ASSERT_TRUE(Store(*shard, 0, {150, 151}).ok());
  uint64_t refused = 0;
  const TokenRange ranges[] = {{0, 40}, {10, 11}, {0, 300}, {39, 70}, {40, 61}, {99, 150}, {100, 151}, {150, 200}};
  for (const TokenRange tokens : ranges) {
    for (const uint64_t pos : {uint64_t{10}, uint64_t{39}, uint64_t{60}, uint64_t{99}, uint64_t{150}}) {
      if (!tokens.Contains({pos, pos + 1})) continue;
      for (const bool is_k : {true, false}) {
        for (const uint32_t element : {2u, 13u}) {  // of head 0 and head 1
          Rows rows(shard->spec(), 0, tokens);
          rows.At(pos, element, is_k) += 3.0f;
          const StoreResult result = Store(*shard, 0, rows);
          EXPECT_EQ(result.error, StoreError::kOtherContent);
          EXPECT_EQ(result.place, (TilePlace{ShardId(5), 0, element / 8, pos / 64}));
          EXPECT_EQ(result.new_tokens, 0u);
          EXPECT_EQ(counters_.refused_other_content, ++refused);
        }
      }
    }
  }
  EXPECT_EQ(shard->stored_tokens(0), 40u);
  // Nothing of what was refused was stored: the rest is still free for its true content.
  EXPECT_EQ(Store(*shard, 0, {0, 300}).new_tokens, 300u - 81u);
  EXPECT_TRUE(shard->AreIntact(0, 0, 0, 5));
}

// What is compared is what is stored, whatever the rows came in.
TEST_P(ShardContentTest, AnotherExchangeTypeOfTheSameValues) {
  const auto shard = OpenShard();
  Rows rows(shard->spec(), 0, {0, 100});  // 12 bits a value
  std::vector<std::byte> k16(rows.view().k.size() / 2), v16(k16.size());
  for (const DType dtype : {DType::kF16, DType::kBf16}) {
    std::vector<float> values(k16.size() / 2);
    const auto convert = [&](std::span<const std::byte> from, std::vector<std::byte>& to) {
      ConvertToF32(DType::kF32, from.data(), values.size(), values.data());
      ConvertFromF32(dtype, values.data(), values.size(), to.data());
    };
    convert(rows.view().k, k16);
    convert(rows.view().v, v16);
    ASSERT_TRUE(Store(*shard, 0, rows).ok());
    const StoreResult result = shard->Store(0, 0, 100, {k16, v16, dtype, dtype});
    // bf16 rounds the values, which a storage with fewer bits may or may not see.
    if (dtype == DType::kF16 || GetParam() == DType::kBf16) {
      EXPECT_EQ(result.error, StoreError::kOk);
    } else if (GetParam() == DType::kF32) {
      EXPECT_EQ(result.error, StoreError::kOtherContent);
    }
  }
}

TEST_P(ShardContentTest, EveryFlippedBitIsFound) {
  const auto shard = OpenShard();
  ASSERT_TRUE(Store(*shard, 1, {0, 100}).ok());
  const size_t bits = size_t{shard->tile_layout().record_bytes} * 8;
  for (uint64_t tile = 0; tile < 2; ++tile) {
    for (size_t bit = tile; bit < bits; bit += 1 + tile * 13) {
      const auto fresh_find = [&] { return shard->AreIntact(1, 1, tile, tile + 1); };
      FlipBit(*shard, 1, 1, tile, bit);
      ASSERT_FALSE(fresh_find()) << "bit " << bit;
      FlipBit(*shard, 1, 1, tile, bit);
      ASSERT_TRUE(fresh_find()) << "bit " << bit;
    }
  }
  EXPECT_EQ(counters_.corrupt_tiles, 2u);  // each is counted once
  EXPECT_EQ(shard->first_corrupt_token(1), 0u);
  EXPECT_EQ(shard->first_corrupt_token(0), ~uint64_t{0});
  EXPECT_EQ(*shard->FirstCorruptTile(1), (TilePlace{ShardId(5), 1, 1, 0}));
  EXPECT_EQ(shard->FirstCorruptTile(0), std::nullopt);
}

// A new CRC must not vouch for what went wrong before, nor is a corrupt tile "other content".
TEST_P(ShardContentTest, StoringIntoACorruptTileIsRefused) {
  const auto shard = OpenShard();
  ASSERT_TRUE(Store(*shard, 0, {0, 100}).ok());
  FlipBit(*shard, 0, 1, 1, 77);
  const TilePlace place{ShardId(5), 0, 1, 1};
  for (const TokenRange tokens : {TokenRange{100, 101}, {100, 300}, {0, 100}, {64, 65}, {64, 128}}) {
    const StoreResult result = Store(*shard, 0, tokens);
    EXPECT_EQ(result.error, StoreError::kCorrupt);
    EXPECT_EQ(result.place, place);
  }
  EXPECT_EQ(shard->stored_tokens(0), 100u);
  EXPECT_EQ(shard->first_corrupt_token(0), 64u);
  EXPECT_EQ(counters_.corrupt_tiles, 1u);
  EXPECT_TRUE(Store(*shard, 0, {128, 300}).ok());  // other tiles are as before
  EXPECT_TRUE(Store(*shard, 0, {0, 64}).ok());
}

INSTANTIATE_TEST_SUITE_P(All, ShardContentTest,
                         ::testing::Values(DType::kF32, DType::kBf16, DType::kF16, DType::kInt8, DType::kInt4,
                                           DType::kFp8E4m3),
                         [](const auto& info) {
                           std::string name(DTypeName(info.param));
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace tributary
