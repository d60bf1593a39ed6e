#include "policy/output_error_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

TEST(OutputErrorStatsTest, WithoutSamplesAllIsZero) {
  const OutputErrorStats stats;
  EXPECT_EQ(stats.count(), 0u);
  EXPECT_EQ(stats.mean(), 0);
  EXPECT_EQ(stats.maximum(), 0);
  EXPECT_EQ(stats.Quantile(0.95), 0);
}

// 100 samples: 90 of 0, 5 of 0.01, 4 of 0.1, one of 3. The bounds next above are 2^-6.5, 2^-3.25 and 2^1.75.
TEST(OutputErrorStatsTest, ByHand) {
  OutputErrorStats stats;
  for (int i = 0; i < 90; ++i) stats.Add(0);
  for (int i = 0; i < 5; ++i) stats.Add(0.01);
  for (int i = 0; i < 4; ++i) stats.Add(0.1);
  stats.Add(3);
  EXPECT_EQ(stats.count(), 100u);
  EXPECT_NEAR(stats.mean(), 0.0345, 1e-12);
  EXPECT_EQ(stats.maximum(), 3);
  EXPECT_DOUBLE_EQ(stats.Quantile(0.9), std::exp2(-24)) << "0 is below the first bound";
  EXPECT_DOUBLE_EQ(stats.Quantile(0.91), std::exp2(-6.5));
  EXPECT_DOUBLE_EQ(stats.Quantile(0.95), std::exp2(-6.5));
  EXPECT_DOUBLE_EQ(stats.Quantile(0.99), std::exp2(-3.25));
  EXPECT_EQ(stats.Quantile(1), 3) << "no more than the maximum";
}

TEST(OutputErrorStatsTest, OnlyZeros) {
  OutputErrorStats stats;
  stats.Add(0);
  EXPECT_EQ(stats.Quantile(0.95), 0);
}

TEST(OutputErrorStatsTest, NanAndWhatIsBeyondTheBucketsCount) {
  OutputErrorStats stats;
  stats.Add(1e-300);
  stats.Add(4);
  stats.Add(1e300);
  EXPECT_EQ(stats.maximum(), 1e300);
  EXPECT_EQ(stats.Quantile(0.95), 1e300);
  stats.Add(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(stats.maximum(), std::numeric_limits<double>::infinity());
  EXPECT_EQ(stats.mean(), std::numeric_limits<double>::infinity());
}

TEST(OutputErrorStatsTest, AQuantileIsWithinABucketOfTheSampleOfItsRank) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 50; ++round) {
    OutputErrorStats whole;
    OutputErrorStats parts[3];
    std::vector<double> samples(RandomInt<size_t>(random, 1, 300));
    for (double& sample : samples) {
      sample = std::exp2(static_cast<double>(RandomInt(random, -2300, 190)) / 100);
      whole.Add(sample);
      parts[random() % 3].Add(sample);
    }
    std::sort(samples.begin(), samples.end());
    const size_t rank = static_cast<size_t>(std::ceil(0.95 * static_cast<double>(samples.size())));
    EXPECT_GE(whole.Quantile(0.95), samples[rank - 1] * (1 - 1e-12));
    EXPECT_LE(whole.Quantile(0.95), samples[rank - 1] * std::exp2(0.25) * (1 + 1e-12));
    OutputErrorStats merged;
    for (const OutputErrorStats& part : parts) merged.Merge(part);
    EXPECT_EQ(merged.count(), whole.count());
    EXPECT_EQ(merged.maximum(), whole.maximum());
    EXPECT_NEAR(merged.mean(), whole.mean(), 1e-12);
    EXPECT_EQ(merged.Quantile(0.95), whole.Quantile(0.95));
  }
}

}  // namespace
}  // namespace tributary
