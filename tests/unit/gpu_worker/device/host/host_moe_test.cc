#include "gpu_worker/device/host/host_moe.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

std::vector<ExpertChoice> Choose(const std::vector<float>& logits, uint32_t count, bool normalises) {
  std::vector<ExpertChoice> choices(count);
  ChooseExperts({.num_experts = static_cast<uint32_t>(logits.size()),
                 .experts_per_token = count,
                 .normalises_weights = normalises},
                logits, choices);
  return choices;
}

TEST(ChooseExpertsTest, TakesTheHighestInTheOrderOfTheirNumbers) {
  const std::vector<ExpertChoice> choices = Choose({0.5f, 3.0f, -1.0f, 2.0f}, 2, true);
  EXPECT_EQ(choices[0].expert, 1u);
  EXPECT_EQ(choices[1].expert, 3u);
  EXPECT_NEAR(choices[0].weight, 1 / (1 + std::exp(-1.0)), 1e-6);
  EXPECT_NEAR(choices[0].weight + choices[1].weight, 1, 1e-6);
}

TEST(ChooseExpertsTest, NanIsTheLowest) {
  const std::vector<ExpertChoice> choices = Choose({NAN, 1.0f, NAN, 2.0f}, 3, true);
  EXPECT_EQ(choices[0].expert, 0u);
  EXPECT_EQ(choices[1].expert, 1u);
  EXPECT_EQ(choices[2].expert, 3u);
  EXPECT_TRUE(std::isnan(choices[1].weight));
}

TEST(ChooseExpertsTest, WeightsOfAllExpertsMayShareTheSum) {
  const std::vector<ExpertChoice> choices = Choose({0.0f, 0.0f, 0.0f, 0.0f}, 2, false);
  // Of equal ones the lower numbers.
  EXPECT_EQ(choices[0].expert, 0u);
  EXPECT_EQ(choices[1].expert, 1u);
  EXPECT_FLOAT_EQ(choices[0].weight, 0.25f);
  EXPECT_FLOAT_EQ(choices[1].weight, 0.25f);
}

}  // namespace
}  // namespace tributary
