#include "attention/replay_window.h"

#include <algorithm>
#include <set>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

TEST(ReplayWindowTest, AgreesWithTheDefinition) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 50; ++round) {
    ReplayWindow window;
    std::set<uint64_t> seen;
    uint64_t highest = 0;
    for (int i = 0; i < 500; ++i) {
      const int64_t jump = RandomInt<int64_t>(random, -70, RandomInt(random, 0, 9) == 0 ? 200 : 5);
      const uint64_t seq =
          static_cast<uint64_t>(std::max<int64_t>(0, static_cast<int64_t>(highest) + jump));
      const bool is_new = seq != 0 && seen.count(seq) == 0 && (seq > highest || highest - seq < 64);
      ASSERT_EQ(window.Accept(seq), is_new) << "seq " << seq << " highest " << highest;
      if (is_new) seen.insert(seq);
      highest = std::max(highest, is_new ? seq : 0);
    }
  }
}

TEST(ReplayWindowTest, HugeJumps) {
  ReplayWindow window;
  EXPECT_FALSE(window.Accept(0));
  EXPECT_TRUE(window.Accept(1));
  EXPECT_TRUE(window.Accept(~uint64_t{0}));
  EXPECT_FALSE(window.Accept(~uint64_t{0}));
  EXPECT_FALSE(window.Accept(1));
  EXPECT_TRUE(window.Accept(~uint64_t{0} - 63));
  EXPECT_FALSE(window.Accept(~uint64_t{0} - 64));
}

}  // namespace
}  // namespace tributary
