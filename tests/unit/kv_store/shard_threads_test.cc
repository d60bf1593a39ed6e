// Threads meet in the store: others store in bulk while the owner stores, checks and reads. What this proves is that
// the thread sanitizer has nothing to say (./dev sanitized tsan threads) and that what is visible is right.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "kv_store/shard_scrub.h"
#include "kv_store/shard_store.h"
#include "tests/testutil/test_seed.h"
#include "tests/unit/kv_store/shard_rows.h"

namespace tributary {
namespace {

using testing::Rows;
using testing::SmallSpec;
using testing::Store;
using testing::TileBytes;

constexpr uint64_t kTokens = 3000;

// Ranges of 1 to 300 tokens that cover [begin, kTokens), each token about twice, in any order.
std::vector<TokenRange> RaggedPieces(uint64_t begin, std::mt19937_64& random) {
  std::vector<TokenRange> pieces;
  for (int i = 0; i < 2; ++i) {
    for (uint64_t pos = begin; pos < kTokens;) {
      const uint64_t end = std::min(kTokens, pos + RandomInt<uint64_t>(random, 1, i == 0 ? 300 : 80));
      pieces.push_back({pos, end});
      pos = end;
    }
  }
  std::shuffle(pieces.begin(), pieces.end(), random);
  return pieces;
}

void StoreBulk(BulkStorer& storer, uint32_t layer, const std::vector<TokenRange>& pieces) {
  for (const TokenRange piece : pieces) {
    const Rows rows(storer.shard().spec(), layer, piece);
    StoreResult result;
    do {
      result = storer.Store(layer, piece.begin, static_cast<uint32_t>(piece.size()), rows.view());
      if (result.error == StoreError::kBusy) std::this_thread::yield();
    } while (result.error == StoreError::kBusy);
    ASSERT_EQ(result.error, StoreError::kOk);
  }
}

class ShardThreadsTest : public ::testing::TestWithParam<DType> {
 protected:
  ShardThreadsTest() {
    ShardSpec spec = Spec(5);
    shard_ = *store_->Open(spec);
    spec.shard_id = ShardId(99);
    truth_ = *store_->Open(spec);
    for (uint32_t layer = 0; layer < 2; ++layer) EXPECT_TRUE(Store(*truth_, layer, {0, kTokens}).ok());
  }
  ShardSpec Spec(uint64_t id) const {
    ShardSpec spec = SmallSpec(id);
    spec.capacity_tokens = kTokens;
    spec.k_dtype = spec.v_dtype = GetParam();
    return spec;
  }
  // As attention does: checks what is new, reads all that is visible. False if nothing was new.
  bool ReadVisible(KvShard& shard, uint32_t layer) {
    const uint64_t visible = shard.stored_tokens(layer);
    const uint64_t checked = shard.checked_tokens(layer);
    EXPECT_GE(visible, checked);
    if (visible == checked) return false;
    for (uint32_t head = 0; head < 2; ++head) {
      EXPECT_TRUE(shard.AreIntact(layer, head, checked / kKvTileTokens, KvTilesFor(visible)));
      for (uint64_t tile = 0; tile < KvTilesFor(visible); ++tile) {
        const std::vector<std::byte> actual = TileBytes(shard, layer, head, tile);
        if ((tile + 1) * kKvTileTokens <= visible) {
          EXPECT_EQ(actual, TileBytes(*truth_, layer, head, tile)) << "tile " << tile;
        }
      }
    }
    shard.SetChecked(layer, visible);
    return true;
  }
  void ExpectAll(KvShard& shard) {
    for (uint32_t layer = 0; layer < 2; ++layer) {
      ASSERT_EQ(shard.stored_tokens(layer), kTokens);
      for (uint32_t head = 0; head < 2; ++head) {
        EXPECT_TRUE(shard.AreIntact(layer, head, 0, KvTilesFor(kTokens)));
        for (uint64_t tile = 0; tile < KvTilesFor(kTokens); ++tile) {
          ASSERT_EQ(TileBytes(shard, layer, head, tile), TileBytes(*truth_, layer, head, tile));
        }
      }
    }
  }

  std::unique_ptr<ShardStore> store_ =
      *ShardStore::Create({.arena = {.bytes = size_t{32} << 20}, .extent_bytes = 64 << 10});
  std::shared_ptr<KvShard> shard_;
  std::shared_ptr<KvShard> truth_;
  const uint64_t seed_ = TestSeed();
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
};

// Two threads store all of it at once, in pieces that overlap; the owner stores the beginning of each layer as spills,
// adds what is kept for it, and reads all the while.
TEST_P(ShardThreadsTest, ReadersSeeWholeTokensWhileOthersStore) {
  std::unique_ptr<BulkStorer> storer;
  ASSERT_EQ(store_->OpenBulk(ShardId(5), Epoch(3), BulkVisibility::kAtOnce, &storer), StoreError::kOk);
  std::atomic<int> running{2};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&, pieces = RaggedPieces(0, random_)] {
      for (uint32_t layer = 0; layer < 2; ++layer) StoreBulk(*storer, layer, pieces);
      running.fetch_sub(1);
    });
  }
  const std::vector<TokenRange> spills = RaggedPieces(0, random_);
  ShardScrub scrub(store_.get(), {});
  size_t next_spill = 0;
  int64_t now_ns = 0;
  while (running.load() > 0) {
    for (uint32_t layer = 0; layer < 2; ++layer) {
      ReadVisible(*shard_, layer);
      const StoreResult spilled = Store(*shard_, layer, spills[next_spill++ % spills.size()]);
      EXPECT_TRUE(spilled.ok() || spilled.error == StoreError::kBusy) << StoreErrorName(spilled.error);
    }
    if (storer->has_kept()) {
      const StoreResult kept = storer->StoreKept();
      EXPECT_TRUE(kept.ok() || kept.error == StoreError::kBusy) << StoreErrorName(kept.error);
    }
    scrub.RunSlice(now_ns += 1'000'000'000);
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(storer->StoreKept().ok());
  storer->Publish();
  ExpectAll(*shard_);
  EXPECT_EQ(store_->counters().corrupt_tiles, 0u);
  EXPECT_EQ(store_->counters().refused_other_content, 0u);
}

// A sequence is sealed by another thread: the owner sees nothing of a layer, or all of it.
TEST_P(ShardThreadsTest, PublishedIsSeenAsAWhole) {
  std::thread thread([&, pieces = RaggedPieces(0, random_)] {
    std::unique_ptr<BulkStorer> storer;
    ASSERT_EQ(store_->OpenBulk(ShardId(5), Epoch(3), BulkVisibility::kWhenPublished, &storer), StoreError::kOk);
    for (uint32_t layer = 0; layer < 2; ++layer) StoreBulk(*storer, layer, pieces);
    storer->Publish();
  });
  for (uint32_t layer = 0; layer < 2; ++layer) {
    while (!ReadVisible(*shard_, layer)) std::this_thread::yield();
    EXPECT_EQ(shard_->checked_tokens(layer), kTokens);
  }
  thread.join();
  ExpectAll(*shard_);
}

// Shards open and close under those who store into them.
TEST_P(ShardThreadsTest, ShardsCloseUnderTheirStorers) {
  std::atomic<bool> stopping{false};
  std::thread thread([&] {
    for (uint64_t round = 0; !stopping.load(); ++round) {
      std::unique_ptr<BulkStorer> storer;
      if (store_->OpenBulk(ShardId(7), Epoch(3), BulkVisibility::kAtOnce, &storer) != StoreError::kOk) continue;
      const Rows rows(storer->shard().spec(), 0, {0, 500});
      const StoreError error = storer->Store(0, 0, 500, rows.view()).error;
      EXPECT_TRUE(error == StoreError::kOk || error == StoreError::kUnknownShard) << StoreErrorName(error);
    }
  });
  for (int round = 0; round < 200; ++round) {
    const auto shard = *store_->Open(Spec(7));
    ReadVisible(*shard, 0);
    EXPECT_TRUE(store_->Close(ShardId(7), Epoch(3)).ok());
  }
  stopping = true;
  thread.join();
}

INSTANTIATE_TEST_SUITE_P(Storages, ShardThreadsTest, ::testing::Values(DType::kBf16, DType::kInt4),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

}  // namespace
}  // namespace tributary
