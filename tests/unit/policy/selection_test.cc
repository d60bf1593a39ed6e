#include "policy/selection.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu_attention_service/kernels/selection/block_selection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/policy/plain_selection.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<uint32_t> Select(const SelectionRule& rule, const std::vector<float>& salience) {
  std::vector<uint32_t> kept{77, 78};  // what was in it does not matter
  SelectUnits(rule, salience, &kept);
  return kept;
}

TEST(SelectionTest, ThresholdFloorAndCeiling) {
  const std::vector<float> salience{0.1f, 0.5f, 0.25f, 0.4f};
  EXPECT_THAT(Select({.threshold = 0.25}, salience), ElementsAre(1, 2, 3));
  EXPECT_THAT(Select({.threshold = 0.45, .keep_min = 2}, salience), ElementsAre(1, 3));
  EXPECT_THAT(Select({.threshold = 0.2, .keep_min = 3, .keep_max = 1}, salience), ElementsAre(1));
  EXPECT_THAT(Select({.threshold = 9, .keep_min = 9}, salience), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(Select({.threshold = 9}, salience), IsEmpty());
  EXPECT_THAT(Select({}, {}), IsEmpty());
}

TEST(SelectionTest, TiesKeepTheLowerIndex) {
  EXPECT_THAT(Select({.threshold = 9, .keep_min = 2}, {1, 1, 1, 1}), ElementsAre(0, 1));
  EXPECT_THAT(Select({.threshold = 9, .keep_min = 2}, {0, 1, 2, 1}), ElementsAre(1, 2));
}

TEST(SelectionTest, WhatIsNotANumberIsKept) {
  EXPECT_THAT(Select({.threshold = 0.5}, {0, kNan, 0.6f, -kInf, kInf}), ElementsAre(1, 2, 4));
  EXPECT_THAT(Select({.threshold = 9, .keep_min = 1}, {8, 7, kNan}), ElementsAre(2));
}

TEST(SelectionTest, ThresholdZeroKeepsEverything) {
  EXPECT_THAT(Select({}, {-1, kNan, 0, -kInf}), ElementsAre(0, 1, 2, 3));
}

TEST(SelectionTest, AgreesWithThePlainReference) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    const std::vector<float> salience = RandomSalience(random, RandomInt<size_t>(random, 0, 200));
    SelectionRule rule;
    if (random() % 8 != 0) rule.threshold = std::exp(static_cast<float>(RandomInt(random, -80, 5)) / 10);
    rule.keep_min = random() % 4 == 0 ? RandomInt<uint64_t>(random, 0, 250) : random() % 12;
    if (random() % 4 == 0) rule.keep_max = RandomInt<uint64_t>(random, 0, 250);
    ASSERT_EQ(Select(rule, salience), PlainSelection(rule, salience))
        << "threshold " << rule.threshold << " keep_min " << rule.keep_min << " keep_max " << rule.keep_max << " of "
        << salience.size();
  }
}

// The vectorised selections of the CPU kernels choose the same units, on every ISA of this machine.
TEST(SelectionTest, AgreesWithTheKernels) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (const BlockSelectionKernel& kernel : block_selection::All()) {
    if (!block_selection::Find(kernel.name).ok()) continue;  // not on this machine
    for (int round = 0; round < 200; ++round) {
      const std::vector<float> salience = RandomSalience(random, RandomInt<size_t>(random, 0, 300));
      const auto n = static_cast<uint32_t>(salience.size());
      const auto k = RandomInt<uint32_t>(random, 0, n + 5);
      const float threshold = std::exp(static_cast<float>(RandomInt(random, -80, 5)) / 10);
      std::vector<uint32_t> ids(n + kSelectSlack);
      ids.resize(kernel.fns.threshold(salience.data(), n, threshold, ids.data()));
      ASSERT_EQ(ids, Select({.threshold = threshold}, salience)) << kernel.name;
      ids.assign(k + kSelectSlack, 0);
      ids.resize(kernel.fns.top_k(salience.data(), n, k, ids.data()));
      // +inf and NaN pass any threshold, so top-k is a floor and a ceiling.
      ASSERT_EQ(ids, Select({.threshold = kInf, .keep_min = k, .keep_max = k}, salience))
          << kernel.name << ", " << k << " of " << n;
    }
  }
}

TEST(SelectionTest, ALowerThresholdNeverDropsAUnit) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 500; ++round) {
    const std::vector<float> salience = RandomSalience(random, RandomInt<size_t>(random, 1, 100));
    SelectionRule rule{.threshold = std::exp(static_cast<float>(RandomInt(random, -80, 5)) / 10),
                       .keep_min = random() % 12};
    const std::vector<uint32_t> strict = Select(rule, salience);
    rule.threshold /= 2;
    const std::vector<uint32_t> mild = Select(rule, salience);
    ASSERT_TRUE(std::includes(mild.begin(), mild.end(), strict.begin(), strict.end()));
  }
}

}  // namespace
}  // namespace tributary
