#include "kv_store/bulk_storer.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kv_store/shard_store.h"
#include "tests/testutil/test_seed.h"
#include "tests/unit/kv_store/shard_rows.h"

namespace tributary {
namespace {

using testing::Rows;
using testing::SmallSpec;
using testing::Store;
using testing::TileBytes;

class BulkStorerTest : public ::testing::Test {
 protected:
  BulkStorerTest() {
    store_ = *ShardStore::Create({.arena = {.bytes = size_t{8} << 20}, .extent_bytes = 16 << 10});
    spec_ = SmallSpec();
    spec_.capacity_tokens = 4000;
    shard_ = *store_->Open(spec_);
  }
  std::unique_ptr<BulkStorer> OpenBulk(BulkVisibility visibility) {
    std::unique_ptr<BulkStorer> storer;
    EXPECT_EQ(store_->OpenBulk(ShardId(5), Epoch(3), visibility, &storer), StoreError::kOk);
    return storer;
  }
  StoreResult StoreBulk(BulkStorer& storer, uint32_t layer, TokenRange tokens, uint64_t content = 0) {
    const Rows rows(spec_, layer, tokens, content);
    return storer.Store(layer, tokens.begin, static_cast<uint32_t>(tokens.size()), rows.view());
  }
  // The shard holds [0, end) of the layer, bit for bit as one store leaves it.
  void ExpectHolds(uint32_t layer, uint64_t end) {
    ASSERT_EQ(shard_->stored_tokens(layer), end);
    ShardSpec spec = spec_;
    spec.shard_id = ShardId(99);
    const auto whole = *store_->Open(spec);
    ASSERT_TRUE(Store(*whole, layer, {0, end}).ok());
    for (uint32_t head = 0; head < 2; ++head) {
      EXPECT_TRUE(shard_->AreIntact(layer, head, 0, KvTilesFor(end)));
      for (uint64_t tile = 0; tile < KvTilesFor(end); ++tile) {
        ASSERT_EQ(TileBytes(*shard_, layer, head, tile), TileBytes(*whole, layer, head, tile)) << "tile " << tile;
      }
    }
    EXPECT_TRUE(store_->Drop(ShardId(99)));
  }

  ShardSpec spec_;
  std::unique_ptr<ShardStore> store_;
  std::shared_ptr<KvShard> shard_;
  const uint64_t seed_ = TestSeed();
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
};

TEST_F(BulkStorerTest, NothingIsVisibleBeforeItIsPublished) {
  const auto storer = OpenBulk(BulkVisibility::kWhenPublished);
  std::vector<TokenRange> pieces;
  for (uint64_t pos = 0; pos < 3000; pos += 16) pieces.push_back({pos, std::min<uint64_t>(3000, pos + 16)});
  for (uint32_t layer = 0; layer < 2; ++layer) {
    std::shuffle(pieces.begin(), pieces.end(), random_);
    for (const TokenRange piece : pieces) {
      ASSERT_EQ(StoreBulk(*storer, layer, piece).new_tokens, piece.size());
      ASSERT_EQ(shard_->stored_tokens(layer), 0u);
    }
  }
  EXPECT_FALSE(storer->has_kept());
  storer->Publish();
  ExpectHolds(0, 3000);
  ExpectHolds(1, 3000);
}

TEST_F(BulkStorerTest, WholeTilesAreVisibleAtOnceTheRestWhenPublished) {
  const auto storer = OpenBulk(BulkVisibility::kAtOnce);
  EXPECT_EQ(StoreBulk(*storer, 0, {0, 100}).stored_tokens, 64u);
  EXPECT_EQ(StoreBulk(*storer, 0, {100, 3000}).stored_tokens, 2944u);  // longer than a piece
  EXPECT_FALSE(storer->has_kept());
  storer->Publish();
  ExpectHolds(0, 3000);
}

// A tile that is visible in part belongs to the owner: what joins it is kept until he calls.
TEST_F(BulkStorerTest, WhatJoinsAVisibleTileIsTheOwnersToStore) {
  ASSERT_TRUE(Store(*shard_, 0, {0, 100}).ok());
  const auto storer = OpenBulk(BulkVisibility::kAtOnce);
  const StoreResult first = StoreBulk(*storer, 0, {50, 110});
  EXPECT_TRUE(first.ok());
  EXPECT_EQ(first.new_tokens, 0u);
  EXPECT_EQ(first.stored_tokens, 100u);
  EXPECT_TRUE(storer->has_kept());
  const StoreResult second = StoreBulk(*storer, 0, {110, 1000});
  EXPECT_EQ(second.new_tokens, 1000u - 128u);
  EXPECT_EQ(second.stored_tokens, 100u);
  const StoreResult kept = storer->StoreKept();
  EXPECT_TRUE(kept.ok());
  EXPECT_EQ(kept.new_tokens, 28u);
  EXPECT_FALSE(storer->has_kept());
  ExpectHolds(0, 1000);
}

TEST_F(BulkStorerTest, OtherContentIsRefusedHereToo) {
  const auto storer = OpenBulk(BulkVisibility::kWhenPublished);
  ASSERT_TRUE(StoreBulk(*storer, 0, {0, 500}).ok());
  EXPECT_EQ(StoreBulk(*storer, 0, {400, 600}, 1).error, StoreError::kOtherContent);
  EXPECT_TRUE(StoreBulk(*storer, 0, {400, 600}).ok());
  EXPECT_EQ(StoreBulk(*storer, 0, {3990, 4001}).error, StoreError::kOutOfRange);
  storer->Publish();
  ExpectHolds(0, 600);
}

// One that is held holds the owner's stores as well: a sequence becomes visible as a whole.
TEST_F(BulkStorerTest, TheOwnersStoresWaitForThePublicationToo) {
  const auto storer = OpenBulk(BulkVisibility::kWhenPublished);
  EXPECT_EQ(Store(*shard_, 0, {0, 100}).stored_tokens, 0u);
  ASSERT_TRUE(StoreBulk(*storer, 0, {100, 200}).ok());  // joins a tile that nobody sees yet
  EXPECT_FALSE(storer->has_kept());
  storer->Publish();
  ExpectHolds(0, 200);
}

}  // namespace
}  // namespace tributary
