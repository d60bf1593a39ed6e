#include "gpu_worker/step/attention_quality.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr AttentionShape kShape{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
constexpr uint32_t kLayers = 3;

PolicyParams Hgca(double rate, double min_kept_mass = 0, std::vector<LayerHead> dense_heads = {}) {
  PolicyParams params = *ResolvePolicy({.name = "hgca"}, {});
  params.Set("quality_sample_rate", rate);
  params.Set("min_kept_mass", min_kept_mass);
  params.Set("dense_heads", std::move(dense_heads));
  return params;
}

TEST(AttentionQualityTest, TheFirstStepIsNeverMeasured) {
  AttentionQuality quality(Hgca(0.25), kShape, kLayers);
  std::vector<int> measured;
  for (int step = 0; step < 10; ++step) {
    if (quality.BeginStep()) measured.push_back(step);
  }
  EXPECT_EQ(measured, (std::vector<int>{1, 5, 9}));
  AttentionQuality never(Hgca(0), kShape, kLayers);
  for (int step = 0; step < 10; ++step) EXPECT_FALSE(never.BeginStep());
  EXPECT_EQ(never.Summary().num_samples, 0u);
}

TEST(AttentionQualityTest, ReadShareIsOverAllSteps) {
  AttentionQuality quality(Hgca(0), kShape, kLayers);
  EXPECT_EQ(quality.Summary().remote_read_share, 1.0);
  quality.BeginStep();
  quality.EndStep(600, 600);
  quality.BeginStep();
  quality.EndStep(100, 800);
  EXPECT_DOUBLE_EQ(quality.Summary().remote_read_share, 0.5);
  EXPECT_TRUE(quality.Summary().heads.empty());
}

// Against the definition in f64, over random slots of which some have nothing.
TEST(AttentionQualityTest, KeptMassIsThatOfAllSlotsTogether) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  const uint32_t slots = RandomInt(random, 1u, 4u);
  AttentionQuality quality(Hgca(1), kShape, kLayers);
  EXPECT_FALSE(quality.BeginStep());
  quality.EndStep(1, 1);
  double sum = 0, min = 1, head_min = 1;
  int count = 0;
  for (int step = 0; step < 3; ++step) {
    ASSERT_TRUE(quality.BeginStep());
    double step_sum = 0;
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      std::vector<float> sparse(slots * 4), dense(slots * 4);
      for (size_t i = 0; i < dense.size(); ++i) {
        const bool is_empty = i >= 4 && RandomInt(random, 0, 2) == 0;
        dense[i] = is_empty ? -INFINITY : static_cast<float>(RandomInt(random, -300, 300)) / 100;
        sparse[i] = dense[i] - static_cast<float>(RandomInt(random, 0, 200)) / 100;
      }
      const std::vector<uint32_t> attended(slots * 2, 3);
      quality.AddLayer({layer, 10 * slots, slots, sparse, dense, attended});
      for (uint32_t head = 0; head < 4; ++head) {
        double read = 0, all = 0;
        for (uint32_t slot = 0; slot < slots; ++slot) {
          read += std::exp(double{sparse[slot * 4 + head]});
          all += std::exp(double{dense[slot * 4 + head]});
        }
        const double kept = std::min(1.0, read / all);
        sum += kept;
        step_sum += kept;
        min = std::min(min, kept);
        if (layer == 2 && head >= 2) head_min = std::min(head_min, kept);
        ++count;
      }
    }
    EXPECT_NEAR(quality.step_kept_mass().mean(), step_sum / 12, 1e-5);
    quality.EndStep(3, 10);
  }
  const AttentionQualitySummary summary = quality.Summary();
  EXPECT_EQ(summary.num_samples, 3u);
  EXPECT_NEAR(summary.kept_mass_mean, sum / count, 1e-5);
  EXPECT_NEAR(summary.kept_mass_min, min, 1e-5);
  ASSERT_EQ(summary.heads.size(), kLayers * 2);
  EXPECT_EQ(summary.heads[5].layer, 2u);
  EXPECT_EQ(summary.heads[5].kv_head, 1u);
  EXPECT_NEAR(summary.heads[5].read_share, 0.3, 1e-9);
  EXPECT_NEAR(summary.heads[5].kept_mass_min, head_min, 1e-5);
}

TEST(AttentionQualityTest, HeadsThatReadEverythingHaveFallenBackUnlessConfigured) {
  const std::vector<float> lse(4, 0.0f);
  const std::vector<uint32_t> attended = {10, 4};
  for (const double beta : {0.0, 1.0}) {
    for (const double floor : {0.0, 0.5}) {
      PolicyParams policy = Hgca(1, floor, {{1, 0}});
      policy.Set("beta", beta);
      AttentionQuality quality(policy, kShape, kLayers);
      quality.BeginStep();
      quality.EndStep(1, 1);
      ASSERT_TRUE(quality.BeginStep());
      for (uint32_t layer = 0; layer < kLayers; ++layer) {
        quality.AddLayer({layer, 10, 1, lse, lse, attended});
      }
      quality.EndStep(1, 1);
      EXPECT_EQ(quality.Summary().fallback_heads, floor > 0 && beta > 0 ? 2u : 0u);
    }
  }
}

// The sample itself makes a head fall back, before it has read everything.
TEST(AttentionQualityTest, HeadsBelowTheFloorFallBack) {
  AttentionQuality quality(Hgca(1, 0.5, {}), kShape, kLayers);
  quality.BeginStep();
  quality.EndStep(1, 1);
  ASSERT_TRUE(quality.BeginStep());
  const std::vector<float> dense(4, 0.0f), sparse = {0, -0.1f, 0, -1};  // of KV head 1: e^-1 is kept
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    quality.AddLayer({layer, 10, 1, sparse, dense, std::vector<uint32_t>{5, 5}});
  }
  quality.EndStep(1, 1);
  EXPECT_EQ(quality.Summary().fallback_heads, kLayers);
}

TEST(AttentionQualityTest, EachTurnIsSampledFromItsFirstStepOn) {
  AttentionQuality quality(Hgca(1.0 / 256, 0, {}), kShape, kLayers);
  for (int step = 0; step < 20; ++step) {
    EXPECT_EQ(quality.BeginStep(), step == 1) << step;
    quality.EndStep(1, 1);
  }
  for (int turn = 0; turn < 3; ++turn) {
    quality.BeginTurn();
    for (int step = 0; step < 5; ++step) {
      EXPECT_EQ(quality.BeginStep(), step == 0) << "turn " << turn << " step " << step;
      quality.EndStep(1, 1);
    }
    EXPECT_EQ(quality.Summary().num_samples, 1u);
  }
}

}  // namespace
}  // namespace tributary
