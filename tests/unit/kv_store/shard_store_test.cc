#include "kv_store/shard_store.h"

#include <gtest/gtest.h>

#include "tests/unit/kv_store/shard_rows.h"

namespace tributary {
namespace {

using testing::Rows;
using testing::SmallSpec;

constexpr size_t kExtentBytes = 16 << 10;

std::unique_ptr<ShardStore> MakeStore(size_t bytes = size_t{4} << 20) {
  return *ShardStore::Create({.arena = {.bytes = bytes}, .extent_bytes = kExtentBytes});
}

TEST(ShardStoreTest, RefusesSizesThatMakeNoSense) {
  for (const size_t extent_bytes : {size_t{0}, size_t{2048}, size_t{5000}, size_t{1} << 32}) {
    const auto store = ShardStore::Create({.arena = {.bytes = size_t{1} << 20}, .extent_bytes = extent_bytes});
    EXPECT_EQ(store.status().code(), absl::StatusCode::kInvalidArgument) << extent_bytes;
  }
  EXPECT_EQ(ShardStore::Create({.arena = {.bytes = 4096}, .extent_bytes = 8192}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ShardStoreTest, OpeningAgainIsTheSameShard) {
  const auto store = MakeStore();
  const auto shard = *store->Open(SmallSpec());
  EXPECT_EQ(store->capacity_bytes() - store->free_bytes(), shard->reserved_bytes());
  EXPECT_EQ(shard->reserved_bytes(), *KvShard::ReservedBytes(SmallSpec(), kExtentBytes));
  const uint64_t free_bytes = store->free_bytes();
  EXPECT_EQ(*store->Open(SmallSpec()), shard);
  EXPECT_EQ(store->free_bytes(), free_bytes);
  ShardSpec other = SmallSpec();
  other.capacity_tokens += 1;
  EXPECT_EQ(store->Open(other).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(store->shards().size(), 1u);
}

TEST(ShardStoreTest, ClosesButNotForAnOlderEpoch) {
  const auto store = MakeStore();
  const uint64_t free_bytes = store->free_bytes();
  ASSERT_TRUE(store->Open(SmallSpec()).ok());
  EXPECT_TRUE(store->Close(ShardId(77), Epoch(1)).ok());
  EXPECT_EQ(store->Close(ShardId(5), Epoch(2)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(store->Close(ShardId(5), Epoch(4)).ok());
  EXPECT_EQ(store->free_bytes(), free_bytes);
  EXPECT_FALSE(store->Drop(ShardId(5)));
  ASSERT_TRUE(store->Open(SmallSpec()).ok());
  EXPECT_TRUE(store->Drop(ShardId(5)));
  EXPECT_EQ(store->free_bytes(), free_bytes);
}

TEST(ShardStoreTest, WhatDoesNotFitReservesNothing) {
  const uint64_t shard_bytes = *KvShard::ReservedBytes(SmallSpec(), kExtentBytes);
  const auto store = MakeStore(2 * shard_bytes - kExtentBytes);
  ASSERT_TRUE(store->Open(SmallSpec(1)).ok());
  const uint64_t free_bytes = store->free_bytes();
  EXPECT_EQ(free_bytes, shard_bytes - kExtentBytes);
  const auto second = store->Open(SmallSpec(2));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(second.status().message().find(std::to_string(shard_bytes)), std::string::npos) << second.status();
  EXPECT_EQ(store->free_bytes(), free_bytes);
}

TEST(ShardStoreTest, StoresIntoTheShardOfThatEpoch) {
  const auto store = MakeStore();
  const auto shard = *store->Open(SmallSpec());
  const Rows rows(SmallSpec(), 1, {0, 70});
  EXPECT_EQ(store->Store(ShardId(6), Epoch(3), 1, {0, 70}, rows.view()).error, StoreError::kUnknownShard);
  EXPECT_EQ(store->Store(ShardId(5), Epoch(2), 1, {0, 70}, rows.view()).error, StoreError::kStaleEpoch);
  EXPECT_EQ(store->Store(ShardId(5), Epoch(4), 1, {0, 70}, rows.view()).error, StoreError::kStaleEpoch);
  EXPECT_EQ(store->Store(ShardId(5), Epoch(3), 2, {0, 70}, rows.view()).error, StoreError::kOutOfRange);
  EXPECT_EQ(store->Store(ShardId(5), Epoch(3), 1, {0, 71}, rows.view()).error, StoreError::kBadGeometry);
  const StoreResult result = store->Store(ShardId(5), Epoch(3), 1, {0, 70}, rows.view());
  EXPECT_TRUE(result.ok());
  EXPECT_EQ(result.stored_tokens, 70u);
  EXPECT_EQ(store->Store(ShardId(5), Epoch(3), 1, {0, 70}, Rows(SmallSpec(), 1, {0, 70}, 9).view()).error,
            StoreError::kOtherContent);
  EXPECT_EQ(store->counters().refused_other_content, 1u);
  StoreError error = StoreError::kOk;
  EXPECT_EQ(store->Find(ShardId(5), Epoch(3), &error), shard.get());
  EXPECT_EQ(store->Find(ShardId(5), Epoch(2), &error), nullptr);
  EXPECT_EQ(error, StoreError::kStaleEpoch);
}

// Whoever stores in bulk keeps the memory, so that nothing is written into another shard's.
TEST(ShardStoreTest, AClosedShardsMemoryIsFreeWhenItsStorersAreGone) {
  const auto store = MakeStore();
  const uint64_t free_bytes = store->free_bytes();
  ASSERT_TRUE(store->Open(SmallSpec()).ok());
  std::unique_ptr<BulkStorer> storer;
  EXPECT_EQ(store->OpenBulk(ShardId(6), Epoch(3), BulkVisibility::kAtOnce, &storer), StoreError::kUnknownShard);
  EXPECT_EQ(store->OpenBulk(ShardId(5), Epoch(2), BulkVisibility::kAtOnce, &storer), StoreError::kStaleEpoch);
  ASSERT_EQ(store->OpenBulk(ShardId(5), Epoch(3), BulkVisibility::kAtOnce, &storer), StoreError::kOk);
  ASSERT_TRUE(store->Close(ShardId(5), Epoch(3)).ok());
  EXPECT_LT(store->free_bytes(), free_bytes);
  const Rows rows(SmallSpec(), 0, {0, 70});
  EXPECT_EQ(storer->Store(0, 0, 70, rows.view()).error, StoreError::kUnknownShard);
  storer.reset();
  EXPECT_EQ(store->free_bytes(), free_bytes);
}

TEST(StoreResultTest, NamesAndPlaces) {
  for (uint32_t i = 0; i < kNumStoreErrors; ++i) {
    EXPECT_NE(StoreErrorName(static_cast<StoreError>(i)), "unknown");
  }
  EXPECT_EQ(StoreErrorName(StoreError::kOtherContent), "other_content");
  EXPECT_EQ(StoreErrorName(StoreError::kNeedsOwner), "needs_owner");
  EXPECT_EQ(StoreErrorName(static_cast<StoreError>(kNumStoreErrors)), "unknown");
  EXPECT_EQ(ToString({ShardId(5), 2, 1, 7}), "shard 5, layer 2, KV head 1, tile 7 (stripe-local tokens 448 to 511)");
}

}  // namespace
}  // namespace tributary
