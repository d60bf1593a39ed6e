#include "base/random_id.h"

#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(RandomIdTest, IdsDifferAndUseAllBits) {
  std::set<uint64_t> ids;
  uint64_t ones = 0, zeros = 0;
  for (int i = 0; i < 200; ++i) {
    const uint64_t id = RandomId();
    EXPECT_NE(id, 0u);
    EXPECT_TRUE(ids.insert(id).second);
    ones |= id;
    zeros |= ~id;
  }
  EXPECT_EQ(ones, ~uint64_t{0});
  EXPECT_EQ(zeros, ~uint64_t{0});
}

TEST(RandomIdTest, SeedsReplay) {
  IdSource first = SeededIds(7), again = SeededIds(7), other = SeededIds(8);
  for (int i = 0; i < 100; ++i) {
    const uint64_t id = first();
    EXPECT_NE(id, 0u);
    EXPECT_EQ(again(), id);
    EXPECT_NE(other(), id);
  }
}

TEST(RandomIdTest, FillsEveryByte) {
  std::array<std::byte, 37> seen{};
  for (int i = 0; i < 20; ++i) {
    std::array<std::byte, 37> bytes{};
    FillRandom(bytes);
    std::transform(seen.begin(), seen.end(), bytes.begin(), seen.begin(), std::bit_or<>());
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), std::byte{0}), 0);
  FillRandom({});
}

}  // namespace
}  // namespace tributary
