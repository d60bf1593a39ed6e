#include "transport/ucx/frame_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>

#include "base/aligned_buffer.h"
#include "tests/unit/transport/test_plane.h"

namespace tributary {
namespace {

constexpr size_t kPage = FramePool::kPageBytes;

TEST(FramePoolTest, CountsAndExhausts) {
  AlignedBuffer<std::byte> region(10 * kPage + 100);
  FramePool pool(region.span());
  EXPECT_EQ(pool.capacity_bytes(), 10 * kPage);
  std::byte* a = pool.Allocate(1);
  std::byte* b = pool.Allocate(kPage + 1);
  ASSERT_NE(a, nullptr);
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(pool.used_bytes(), 3 * kPage);
  EXPECT_EQ(pool.num_buffers(), 2u);
  EXPECT_EQ(pool.Allocate(8 * kPage), nullptr);
  EXPECT_EQ(pool.Allocate(100 * kPage), nullptr);
  std::byte* c = pool.Allocate(7 * kPage);
  ASSERT_NE(c, nullptr);
  EXPECT_EQ(pool.Allocate(1), nullptr);
  for (std::byte* buffer : {b, a, c}) pool.Free(buffer);
  EXPECT_EQ(pool.used_bytes(), 0u);
  EXPECT_EQ(pool.num_buffers(), 0u);
  std::byte* whole = pool.Allocate(10 * kPage);
  EXPECT_EQ(whole, region.data()) << "free runs were not merged";
  pool.Free(whole);
}

TEST(FramePoolTest, SmallBuffersAreReusedWarm) {
  AlignedBuffer<std::byte> region(100 * kPage);
  FramePool pool(region.span());
  std::byte* first = pool.Allocate(2 * kPage);
  pool.Free(first);
  EXPECT_EQ(pool.Allocate(2 * kPage), first);
  pool.Free(first);
}

// Against a plain model: no two live buffers overlap, contents stay, and in the end all is free
// again.
TEST(FramePoolTest, RandomUseAgreesWithAModel) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  AlignedBuffer<std::byte> region(512 * kPage);
  FramePool pool(region.span());
  std::map<std::byte*, size_t> live;
  size_t refusals = 0;
  for (int i = 0; i < 20'000; ++i) {
    if (random() % 2 == 0 || live.empty()) {
      const size_t pages = random() % 4 == 0 ? 1 + random() % 128 : 1 + random() % 4;
      const size_t bytes = pages * kPage - random() % kPage;
      std::byte* buffer = pool.Allocate(bytes);
      if (buffer == nullptr) {
        ++refusals;
        continue;
      }
      ASSERT_GE(buffer, region.data());
      ASSERT_LE(buffer + bytes, region.data() + region.size());
      const auto next = live.upper_bound(buffer);
      if (next != live.end()) {
        ASSERT_LE(buffer + bytes, next->first);
      }
      if (next != live.begin()) {
        const auto before = std::prev(next);
        ASSERT_LE(before->first + before->second, buffer);
      }
      std::memset(buffer, static_cast<int>(bytes % 251), bytes);
      live[buffer] = bytes;
    } else {
      auto it = live.begin();
      std::advance(it, static_cast<ptrdiff_t>(random() % live.size()));
      const auto expected = static_cast<std::byte>(it->second % 251);
      ASSERT_EQ(it->first[0], expected);
      ASSERT_EQ(it->first[it->second - 1], expected);
      pool.Free(it->first);
      live.erase(it);
    }
    ASSERT_EQ(pool.num_buffers(), live.size());
  }
  EXPECT_GT(refusals, 0u);
  for (const auto& [buffer, bytes] : live) pool.Free(buffer);
  EXPECT_EQ(pool.used_bytes(), 0u);
  EXPECT_NE(pool.Allocate(512 * kPage), nullptr);
}

TEST(FramePoolDeathTest, FreeingTwiceDies) {
  AlignedBuffer<std::byte> region(4 * kPage);
  FramePool pool(region.span());
  std::byte* buffer = pool.Allocate(1);
  pool.Free(buffer);
  EXPECT_DEATH(pool.Free(buffer), "kUsed");
  EXPECT_DEATH(pool.Free(region.data() + 5), "kPageBytes");
}

}  // namespace
}  // namespace tributary
