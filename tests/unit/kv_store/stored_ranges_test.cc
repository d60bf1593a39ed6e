#include "kv_store/stored_ranges.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

TEST(StoredRangesTest, AgreesWithABitPerToken) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    StoredRanges stored;
    std::vector<bool> bits(200);
    for (int i = 0; i < 40; ++i) {
      const uint64_t begin = RandomInt<uint64_t>(random, 0, 190);
      const TokenRange range{begin, begin + RandomInt<uint64_t>(random, 0, 10)};
      std::vector<bool> missing(bits.size());
      stored.ForEachMissing(range, [&](TokenRange part) {
        ASSERT_FALSE(part.empty());
        for (uint64_t pos = part.begin; pos < part.end; ++pos) missing[pos] = true;
      });
      for (uint64_t pos = 0; pos < bits.size(); ++pos) {
        const bool in_range = pos >= range.begin && pos < range.end;
        ASSERT_EQ(missing[pos], in_range && !bits[pos]) << pos;
      }
      ASSERT_TRUE(stored.CanInsert(range));
      stored.Insert(range);
      for (uint64_t pos = range.begin; pos < range.end; ++pos) bits[pos] = true;
      uint64_t prefix = 0;
      while (prefix < bits.size() && bits[prefix]) ++prefix;
      ASSERT_EQ(stored.prefix_tokens(), prefix);
      size_t ranges = 0;
      for (uint64_t pos = prefix + 1; pos < bits.size(); ++pos) ranges += bits[pos] && !bits[pos - 1] ? 1 : 0;
      ASSERT_EQ(stored.num_ranges(), ranges);
    }
  }
}

TEST(StoredRangesTest, BoundedAndStillAcceptsWhatClosesGaps) {
  StoredRanges stored;
  for (uint64_t i = 0; i < StoredRanges::kMaxRanges; ++i) stored.Insert({10 * i + 5, 10 * i + 6});
  EXPECT_EQ(stored.num_ranges(), StoredRanges::kMaxRanges);
  EXPECT_FALSE(stored.CanInsert({7, 8}));
  EXPECT_FALSE(stored.CanInsert({100'000, 100'001}));
  EXPECT_TRUE(stored.CanInsert({6, 8}));  // joins the first range
  EXPECT_TRUE(stored.CanInsert({0, 3}));  // extends the prefix
  EXPECT_TRUE(stored.CanInsert({7, 7}));  // nothing
  stored.Insert({0, 5});
  EXPECT_EQ(stored.prefix_tokens(), 6u);
  EXPECT_TRUE(stored.CanInsert({7, 8}));
  stored.Insert({0, 100'000});
  EXPECT_EQ(stored.prefix_tokens(), 100'000u);
  EXPECT_EQ(stored.num_ranges(), 0u);
}

}  // namespace
}  // namespace tributary
