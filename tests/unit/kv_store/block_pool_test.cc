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
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr("8192 bytes needed, 4096 free of 12288"));
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
    } else if (auto extents = pool.Acquire(RandomInt(random, 0u, 12u)); extents.ok()) {
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
