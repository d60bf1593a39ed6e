#include "wire/replay_window.h"

#include <algorithm>
#include <set>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr uint64_t kWindow = ReplayWindow::kWindowFrames;

TEST(ReplayWindowTest, AgreesWithTheDefinition) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; ++round) {
    ReplayWindow window;
    std::set<uint64_t> seen;
    uint64_t highest = 0;
    // Steps of a word, of the window, and of several windows.
    const int64_t reach = int64_t{1} << RandomInt(random, 2, 14);
    for (int i = 0; i < 1500; ++i) {
      const int64_t back = std::min<int64_t>(reach, kWindow + 100);
      const int64_t next = static_cast<int64_t>(highest) + RandomInt<int64_t>(random, -back, reach / 4);
      const uint64_t seq = static_cast<uint64_t>(std::max<int64_t>(0, next));
      const bool is_new = seq != 0 && seen.count(seq) == 0 && (seq > highest || highest - seq < kWindow);
      ASSERT_EQ(window.Accept(seq), is_new) << "seq " << seq << " highest " << highest;
      if (is_new) {
        seen.insert(seq);
        highest = std::max(highest, seq);
      }
    }
  }
}

TEST(ReplayWindowTest, EdgesOfTheWindow) {
  for (uint64_t highest : {kWindow + 1, kWindow + 63, kWindow + 64, 3 * kWindow, ~uint64_t{0}}) {
    ReplayWindow window;
    EXPECT_FALSE(window.Accept(0));
    EXPECT_TRUE(window.Accept(highest));
    EXPECT_FALSE(window.Accept(highest));
    EXPECT_TRUE(window.Accept(highest - kWindow + 1));
    EXPECT_FALSE(window.Accept(highest - kWindow + 1));
    EXPECT_FALSE(window.Accept(highest - kWindow));
  }
}

// A bulk frame that thousands of small ones overtook is still new, once.
TEST(ReplayWindowTest, LateFramesAreAcceptedOnce) {
  ReplayWindow window;
  for (uint64_t seq = 1; seq <= kWindow; ++seq) {
    ASSERT_TRUE(seq == 7 || window.Accept(seq));
  }
  EXPECT_TRUE(window.Accept(7));
  for (uint64_t seq = 1; seq <= kWindow; ++seq) ASSERT_FALSE(window.Accept(seq));
}

}  // namespace
}  // namespace tributary
