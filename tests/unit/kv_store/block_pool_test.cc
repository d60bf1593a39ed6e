#include "kv_store/block_pool.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

TEST(BlockPoolTest, CarvesTheRegionWithoutItsTail) {
  AlignedBuffer<std::byte> region(4096 * 3 + 100);
  BlockPool pool(region.span(), 4096);
  EXPECT_EQ(pool.num_extents(), 3u);
  EXPECT_EQ(pool.capacity_bytes(), 3u * 4096);
  EXPECT_EQ(pool.data(2), region.data() + 8192);
}

TEST(BlockPoolTest, AllOrNothingAndSaysWhatIsMissing) {
  AlignedBuffer<std::byte> region(4096 * 3);
  BlockPool pool(region.span(), 4096);
  const std::vector<ExtentId> two = *pool.Acquire(2);
  const absl::Status status = pool.Acquire(2).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("8192 bytes needed, 4096 free of 12288"));
  EXPECT_EQ(pool.num_free(), 1u);
  pool.Release(two);
  EXPECT_TRUE(pool.Acquire(3).ok());
  EXPECT_TRUE(pool.Acquire(0).ok());
}

TEST(BlockPoolTest, NeverHandsOutAnExtentTwice) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  AlignedBuffer<std::byte> region(4096 * 40);
  BlockPool pool(region.span(), 4096);
  std::vector<std::vector<ExtentId>> held;
  for (int round = 0; round < 2000; ++round) {
    if (RandomInt(random, 0, 1) == 0 && !held.empty()) {
      std::swap(held[RandomInt<size_t>(random, 0, held.size() - 1)], held.back());
      pool.Release(held.back());
      held.pop_back();
    } else if (auto extents = pool.Acquire(RandomInt(random, 0u, 4u), RandomInt(random, 1u, 4u)); extents.ok()) {
      held.push_back(*std::move(extents));
    }
    std::set<ExtentId> distinct;
    size_t total = 0;
    for (const std::vector<ExtentId>& extents : held) {
      distinct.insert(extents.begin(), extents.end());
      total += extents.size();
    }
    ASSERT_EQ(distinct.size(), total);
    ASSERT_EQ(pool.num_free() + total, 40u);
  }
}

bool IsRun(std::span<const ExtentId> extents) {
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i] != extents[0] + i) return false;
  }
  return true;
}

class BlockPoolGapsTest : public ::testing::Test {
 protected:
  // Leaves exactly these extents free.
  void FreeOnly(const std::vector<std::pair<ExtentId, uint32_t>>& gaps) {
    ASSERT_TRUE(pool_.Acquire(pool_.num_extents()).ok());
    for (const auto& [begin, count] : gaps) {
      for (ExtentId extent = begin; extent < begin + count; ++extent) {
        pool_.Release(std::vector<ExtentId>{extent});
      }
    }
  }
  AlignedBuffer<std::byte> region_{4096 * 100};
  BlockPool pool_{region_.span(), 4096};
};

TEST_F(BlockPoolGapsTest, AllInTheSmallestGapThatHoldsThem) {
  FreeOnly({{0, 20}, {30, 6}, {50, 8}});
  EXPECT_EQ(pool_.largest_free_run(), 20u);
  const std::vector<ExtentId> extents = *pool_.Acquire(3, 2);
  EXPECT_TRUE(IsRun(extents));
  EXPECT_EQ(extents[0], 30u);
}

TEST_F(BlockPoolGapsTest, PiecesStayWhole) {
  FreeOnly({{0, 7}, {20, 9}, {40, 3}, {60, 2}});
  const std::vector<ExtentId> extents = *pool_.Acquire(5, 3);
  for (size_t i = 0; i < extents.size(); i += 3) EXPECT_TRUE(IsRun(std::span(extents).subspan(i, 3)));
  EXPECT_EQ(pool_.num_free(), 6u);
}

TEST_F(BlockPoolGapsTest, FragmentsAreBetterThanARefusal) {
  FreeOnly({{0, 5}, {10, 2}, {20, 1}, {30, 1}, {40, 1}});
  const std::vector<ExtentId> extents = *pool_.Acquire(2, 5);
  ASSERT_EQ(extents.size(), 10u);
  EXPECT_TRUE(IsRun(std::span(extents).first(5)));
  EXPECT_EQ(std::set<ExtentId>(extents.begin(), extents.end()).size(), 10u);
  EXPECT_EQ(pool_.num_free(), 0u);
  pool_.Release(extents);
  EXPECT_EQ(pool_.largest_free_run(), 5u);
}

TEST_F(BlockPoolGapsTest, WhatIsGivenBackGrowsTogether) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  std::vector<std::vector<ExtentId>> held;
  for (int i = 0; i < 15; ++i) {
    held.push_back(*pool_.Acquire(RandomInt(random, 1u, 3u), RandomInt(random, 1u, 2u)));
  }
  std::shuffle(held.begin(), held.end(), random);
  for (const std::vector<ExtentId>& extents : held) pool_.Release(extents);
  EXPECT_EQ(pool_.largest_free_run(), 100u);
  EXPECT_TRUE(IsRun(*pool_.Acquire(20, 5)));
}

TEST(BlockPoolDeathTest, BugsDie) {
  AlignedBuffer<std::byte> region(4096 * 2);
  BlockPool pool(region.span(), 4096);
  const std::vector<ExtentId> one = *pool.Acquire(1);
  pool.Release(one);
  EXPECT_DEATH(pool.Release(one), "check failed");
  EXPECT_DEATH(pool.Release(std::vector<ExtentId>{7}), "check failed");
  EXPECT_DEATH(BlockPool(region.span(), 5000), "check failed");
  EXPECT_DEATH(BlockPool(region.span().subspan(1), 4096), "check failed");
}

}  // namespace
}  // namespace tributary
