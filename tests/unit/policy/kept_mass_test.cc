#include "policy/kept_mass.h"

#include <cmath>

#include "attention/reference.h"
#include "gtest/gtest.h"
#include "policy/selection.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(KeptMassTest, Edges) {
  EXPECT_EQ(KeptMass(-kInf, -kInf), 1.0f);
  EXPECT_EQ(KeptMass(-kInf, 3.0f), 0.0f);
  EXPECT_EQ(KeptMass(3.0f, 3.0f), 1.0f);
  EXPECT_EQ(KeptMass(3.0001f, 3.0f), 1.0f);
  EXPECT_EQ(KeptMass(kNan, 3.0f), 0.0f);
  EXPECT_EQ(KeptMass(3.0f, kNan), 0.0f);
  EXPECT_FLOAT_EQ(KeptMass(98.0f, 100.0f), std::exp(-2.0f));
}

// Attention over a selection and over everything, by the f64 oracle; the share by adding up the softmax.
TEST(KeptMassTest, IsTheShareOfTheSoftmax) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 30; ++round) {
    const size_t num_tokens = RandomInt<size_t>(random, 1, 60);
    const AttentionShape shape{.num_q_heads = 1, .num_kv_heads = 1, .head_dim = 8};
    std::vector<float> q(8);
    std::vector<float> k(num_tokens * 8);
    for (float& x : q) x = normal(random);
    for (float& x : k) x = normal(random);
    std::vector<float> weights(num_tokens);
    double sum = 0;
    for (size_t t = 0; t < num_tokens; ++t) {
      double score = 0;
      for (size_t d = 0; d < 8; ++d) score += double{q[d]} * k[t * 8 + d];
      weights[t] = static_cast<float>(std::exp(score));
      sum += std::exp(score);
    }
    std::vector<uint32_t> kept;
    SelectUnits({.threshold = static_cast<float>(sum / num_tokens), .keep_min = 1}, weights, &kept);
    std::vector<float> selected_k;
    double kept_sum = 0;
    for (const uint32_t t : kept) {
      selected_k.insert(selected_k.end(), k.begin() + t * 8, k.begin() + t * 8 + 8);
      kept_sum += weights[t];
    }
    const auto lse = [&](const std::vector<float>& keys) {
      const auto bytes = std::as_bytes(std::span(keys));
      return static_cast<float>(ReferenceAttention({.shape = shape, .q = q, .k = bytes, .v = bytes}).lse_ln[0]);
    };
    EXPECT_NEAR(KeptMass(lse(selected_k), lse(k)), kept_sum / sum, 1e-5);
  }
}

TEST(KeptMassTest, StatsOfPartsAreStatsOfTheWhole) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  KeptMassStats whole;
  KeptMassStats parts[3];
  EXPECT_EQ(whole.mean(), 1.0);
  EXPECT_EQ(whole.minimum(), 1.0);
  for (int i = 0; i < 100; ++i) {
    const double kept = static_cast<double>(random() % 1001) / 1000;
    whole.Add(kept);
    parts[random() % 3].Add(kept);
  }
  KeptMassStats merged;
  for (const KeptMassStats& part : parts) merged.Merge(part);
  EXPECT_EQ(merged.count, whole.count);
  EXPECT_EQ(merged.minimum(), whole.minimum());
  EXPECT_NEAR(merged.mean(), whole.mean(), 1e-12);
}

TEST(KeptMassTest, SamplesAreEvenlySpread) {
  for (const double rate : {1.0, 0.5, 0.3, 1.0 / 256, 0.001}) {
    uint64_t samples = 0;
    uint64_t last = 0;
    for (uint64_t step = 0; step < 10'000; ++step) {
      if (!IsQualitySample(step, rate)) continue;
      if (samples > 0) {
        EXPECT_LE(step - last, std::ceil(1 / rate));
      }
      ++samples;
      last = step;
    }
    EXPECT_NEAR(static_cast<double>(samples), 10'000 * rate, 1.5) << rate;
    EXPECT_TRUE(IsQualitySample(0, rate));
  }
  EXPECT_FALSE(IsQualitySample(0, 0.0));
  EXPECT_FALSE(IsQualitySample(256, 0.0));
}

TEST(KeptMassTest, TheWorstHeadOfAGroupDecides) {
  DenseFallback fallback(2, 0.9f);
  EXPECT_FALSE(fallback.IsDense(0));
  fallback.OnSample(0, std::vector<float>{0.99f, 0.89f});
  EXPECT_TRUE(fallback.IsDense(0));
  EXPECT_FALSE(fallback.IsDense(1));
  fallback.OnSample(0, std::vector<float>{0.9f, 1.0f});
  EXPECT_FALSE(fallback.IsDense(0));
  fallback.OnSample(0, std::vector<float>{kNan, 1.0f});
  EXPECT_TRUE(fallback.IsDense(0));
}

TEST(KeptMassTest, WithoutAFloorNothingFallsBack) {
  DenseFallback fallback(1, 0.0f);
  fallback.OnSample(0, std::vector<float>{0.0f});
  EXPECT_FALSE(fallback.IsDense(0));
}

}  // namespace
}  // namespace tributary
