#include "base/rate_limit.h"

#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(RateLimitTest, OnePassesPerIntervalAndTheOthersAreCounted) {
  RateLimit limit(1000);
  EXPECT_EQ(limit.Admit(5), 0u);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(limit.Admit(5 + i), std::nullopt);
  EXPECT_EQ(limit.Admit(1004), std::nullopt);
  EXPECT_EQ(limit.Admit(1005), 8u);
  EXPECT_EQ(limit.Admit(9000), 0u);
}

TEST(RateLimitTest, ABurstPasses) {
  RateLimit limit(1000, 3);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(limit.Admit(5), 0u);
  EXPECT_EQ(limit.Admit(5), std::nullopt);
  EXPECT_EQ(limit.Admit(1005), 1u);
}

}  // namespace
}  // namespace tributary
