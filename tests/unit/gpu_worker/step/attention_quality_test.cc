#include "gpu_worker/step/attention_quality.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr AttentionShape kShape{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
constexpr uint32_t kLayers = 3;

constexpr uint32_t kDim = 8;

// The memory of a measured layer of kShape: nothing resident, all outputs 0, answers that read nothing, samples of
// everything.
struct Layer {
  explicit Layer(uint32_t slots, uint32_t tokens_per_slot = 10)
      : num_slots(slots),
        resident_out(4 * kDim),
        resident_lse_ln(4, kEmptyLse),
        out(slots * 4 * kDim),
        lse_ln(slots * 4, kEmptyLse),
        sample_out(out),
        sample_lse_ln(slots * 4, 0.0f),
        attended(slots * 2, 0),
        sampled(slots * 2, tokens_per_slot),
        remote_tokens(uint64_t{slots} * tokens_per_slot) {}

  MeasuredLayer Of(uint32_t layer) const {
    return {.layer = layer,
            .remote_tokens = remote_tokens,
            .num_slots = num_slots,
            .resident = {resident_out, resident_lse_ln},
            .answer = {out, lse_ln},
            .sample = {sample_out, sample_lse_ln},
            .attended_tokens = attended,
            .sampled_tokens = sampled};
  }

  uint32_t num_slots;
  std::vector<float> resident_out, resident_lse_ln, out, lse_ln, sample_out, sample_lse_ln;
  std::vector<uint32_t> attended, sampled;
  uint64_t remote_tokens;
};

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
      Layer measured(slots);
      std::vector<float>&sparse = measured.lse_ln, &dense = measured.sample_lse_ln;
      std::fill(measured.attended.begin(), measured.attended.end(), 3u);
      for (size_t i = 0; i < dense.size(); ++i) {
        const bool is_empty = i >= 4 && RandomInt(random, 0, 2) == 0;
        dense[i] = is_empty ? -INFINITY : static_cast<float>(RandomInt(random, -300, 300)) / 100;
        sparse[i] = dense[i] - static_cast<float>(RandomInt(random, 0, 200)) / 100;
      }
      quality.AddLayer(measured.Of(layer));
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
  Layer measured(1);
  measured.lse_ln = measured.sample_lse_ln;
  measured.attended = {10, 4};
  for (const double beta : {0.0, 1.0}) {
    for (const double floor : {0.0, 0.5}) {
      PolicyParams policy = Hgca(1, floor, {{1, 0}});
      policy.Set("beta", beta);
      AttentionQuality quality(policy, kShape, kLayers);
      quality.BeginStep();
      quality.EndStep(1, 1);
      ASSERT_TRUE(quality.BeginStep());
      for (uint32_t layer = 0; layer < kLayers; ++layer) {
        quality.AddLayer(measured.Of(layer));
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
  Layer measured(1);
  measured.lse_ln = {0, -0.1f, 0, -1};  // of KV head 1: e^-1 is kept
  measured.attended = {5, 5};
  for (uint32_t layer = 0; layer < kLayers; ++layer) quality.AddLayer(measured.Of(layer));
  quality.EndStep(1, 1);
  EXPECT_EQ(quality.Summary().fallback_heads, kLayers);
}

PolicyParams WithLimit(double max_output_error) {
  PolicyParams params = Hgca(1);
  params.Set("max_output_error", max_output_error);
  return params;
}

// Two shards and a window of the same mass e^0 each; all outputs lie in the first dim. Full: (1 + 2 + 3) / 3 = 2 for
// all heads but query head 3, which has (4 + 4 + 4) / 3 = 4: the largest. Query head 0 read of shard 0 a half of its
// mass and 4 instead of 2: (1 + 0.5 * 4 + 3) / 2.5 = 2.4, an error of 0.4 / 4. Query head 1 read nothing of shard 1:
// (1 + 2) / 2 = 1.5, an error of 0.5 / 4. KV head 1 read everything.
Layer ByHand() {
  Layer layer(2);
  const auto set = [](std::vector<float>& out, size_t slot, std::initializer_list<float> heads) {
    size_t head = slot * 4;
    for (const float value : heads) out[head++ * kDim] = value;
  };
  layer.resident_lse_ln.assign(4, 0.0f);
  set(layer.resident_out, 0, {1, 1, 1, 4});
  set(layer.sample_out, 0, {2, 2, 2, 4});
  set(layer.sample_out, 1, {3, 3, 3, 4});
  layer.out = layer.sample_out;
  layer.lse_ln = layer.sample_lse_ln;
  layer.out[0] = 4;
  layer.lse_ln[0] = std::log(0.5f);
  layer.lse_ln[4 + 1] = kEmptyLse;
  layer.attended = {5, 10, 3, 10};
  return layer;
}

TEST(AttentionQualityTest, OutputErrorIsOfTheMergedOutput) {
  AttentionQuality quality(Hgca(1), kShape, kLayers);
  quality.BeginStep();
  quality.EndStep(1, 1);
  ASSERT_TRUE(quality.BeginStep());
  for (uint32_t layer = 0; layer < kLayers; ++layer) quality.AddLayer(ByHand().Of(layer));
  quality.EndStep(28, 40);
  ASSERT_EQ(quality.step_output_errors().size(), kLayers * 4);
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    const auto errors = quality.step_output_errors().subspan(layer * 4, 4);
    EXPECT_NEAR(errors[0], 0.1, 1e-6);
    EXPECT_NEAR(errors[1], 0.125, 1e-6);
    EXPECT_EQ(errors[2], 0);
    EXPECT_EQ(errors[3], 0);
  }
  const AttentionQualitySummary summary = quality.Summary();
  EXPECT_NEAR(summary.output_error_mean, 0.225 / 4, 1e-6);
  EXPECT_NEAR(summary.output_error_max, 0.125, 1e-6);
  EXPECT_NEAR(summary.output_error_p95, 0.125, 1e-6) << "the maximum, below the bound of its bucket";
  EXPECT_NEAR(summary.heads[0].output_error_mean, 0.1125, 1e-6);
  EXPECT_NEAR(summary.heads[0].output_error_max, 0.125, 1e-6);
  EXPECT_EQ(summary.heads[1].output_error_max, 0);
  EXPECT_EQ(summary.fallback_heads, 0u) << "there is no limit";
}

// Of a head that is answered by everything the sample is the selection: what is reported is what was read, what
// decides is what would be.
TEST(AttentionQualityTest, AHeadThatIsTooWrongIsDenseUntilItsSelectionIsGoodAgain) {
  AttentionQuality quality(WithLimit(0.12), kShape, kLayers);
  quality.BeginStep();
  quality.EndStep(1, 1);
  Layer layer = ByHand();
  const auto measure = [&] {
    ASSERT_TRUE(quality.BeginStep());
    quality.AddLayer(layer.Of(1));
    quality.EndStep(1, 1);
  };
  measure();
  EXPECT_TRUE(quality.wants_dense(1, 0)) << "of query head 1, 0.125";
  EXPECT_FALSE(quality.wants_dense(1, 1));
  EXPECT_FALSE(quality.wants_dense(0, 0));
  EXPECT_EQ(quality.Summary().fallback_heads, 1u);
  // KV head 0 is answered by everything now.
  std::swap(layer.out, layer.sample_out);
  std::swap(layer.lse_ln, layer.sample_lse_ln);
  layer.attended = {10, 10, 10, 10};
  layer.sampled = {5, 10, 3, 10};
  measure();
  EXPECT_TRUE(quality.wants_dense(1, 0)) << "the selection is no better";
  for (const float error : quality.step_output_errors().subspan(4, 4)) EXPECT_EQ(error, 0);
  EXPECT_NEAR(quality.Summary().output_error_max, 0.125, 1e-6) << "of the step before";
  layer.sample_lse_ln[4 + 1] = 0;
  measure();
  EXPECT_FALSE(quality.wants_dense(1, 0)) << "0.1 is within the limit";
  EXPECT_EQ(quality.Summary().fallback_heads, 0u);
  layer.sample_out[0] = NAN;
  measure();
  EXPECT_TRUE(quality.wants_dense(1, 0)) << "NaN is too wrong";
  quality.BeginTurn();
  EXPECT_FALSE(quality.wants_dense(1, 0)) << "the appended prompt selects anew";
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
