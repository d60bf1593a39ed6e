#include "policy/fluxion/budget_predictor.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"

namespace tributary {
namespace {

std::vector<float> Random(size_t count, std::mt19937_64& random, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

PredictorWeights RandomWeights(uint64_t seed) {
  std::mt19937_64 random(seed);
  PredictorWeights weights{.num_layers = 2, .num_q_heads = 3};
  weights.feature_mean = Random(kNumFluxionFeatures, random, 1);
  weights.feature_std.assign(kNumFluxionFeatures, 0.7f);
  weights.head_rates = Random(12, random, 1);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const size_t in = PredictorWeights::kWidths[i], out = PredictorWeights::kWidths[i + 1];
    weights.layers[i] = {Random(in * out, random, std::sqrt(2.0f / static_cast<float>(in))), Random(out, random, 0.1f)};
  }
  return weights;
}

// The three outputs in f64.
std::vector<double> Reference(const PredictorWeights& weights, const FluxionFeatures& features) {
  std::vector<double> in;
  for (uint32_t i = 0; i < kNumFluxionFeatures; ++i) {
    const double z = (double{features[i]} - double{weights.feature_mean[i]}) / double{weights.feature_std[i]};
    in.push_back(std::min(8.0, std::max(-8.0, z)));
  }
  for (size_t l = 0; l < 4; ++l) {
    std::vector<double> out;
    for (size_t o = 0; o < weights.layers[l].bias.size(); ++o) {
      double sum{weights.layers[l].bias[o]};
      for (size_t i = 0; i < in.size(); ++i) sum += double{weights.layers[l].weight[o * in.size() + i]} * in[i];
      out.push_back(l == 3 ? sum : std::max(sum, 0.0));
    }
    in = out;
  }
  return in;
}

TEST(BudgetPredictorTest, AgreesWithF64) {
  const PredictorWeights weights = RandomWeights(3);
  std::mt19937_64 random(5);
  int num_streaming = 0;
  const BudgetPredictor predictor = *BudgetPredictor::Make(weights);
  for (int n = 0; n < 50; ++n) {
    FluxionFeatures features;
    const std::vector<float> values = Random(kNumFluxionFeatures, random, 4);
    std::copy(values.begin(), values.end(), features.begin());
    const std::vector<double> expected = Reference(weights, features);
    const PredictedBudget budget = predictor.Predict(features);
    if (std::abs(expected[0]) < 1e-3) continue;  // either side of the threshold
    if (expected[0] < 0) {
      EXPECT_EQ(budget, PredictedBudget{});
      ++num_streaming;
      continue;
    }
    const double share = std::exp(std::min(0.0, std::max(-9.0, expected[1])));
    EXPECT_NEAR(budget.share, share, 1e-3 * share);
    EXPECT_NEAR(budget.growth, share * std::log1p(std::exp(expected[2])), 2e-3 * share);
  }
  EXPECT_GT(num_streaming, 5);
  EXPECT_LT(num_streaming, 45);
  EXPECT_EQ(predictor.head_rates(1)[0], weights.head_rates[6]);
}

TEST(BudgetPredictorTest, WhatIsNoNumberReadsEverything) {
  const BudgetPredictor predictor = *BudgetPredictor::Make(RandomWeights(3));
  FluxionFeatures features{};
  features[17] = NAN;
  EXPECT_EQ(ShareOf(predictor.Predict(features), 0), 1);
  EXPECT_EQ(ShareOf({NAN, 0}, 0), 1);
  EXPECT_EQ(ShareOf({0, 5}, 3), 0) << "a streaming head";
  EXPECT_DOUBLE_EQ(ShareOf({0.25f, 0.125f}, 2), 0.5);
  EXPECT_EQ(ShareOf({0.25f, -1}, 2), 0);
  EXPECT_EQ(ShareOf({0.5f, 0.5f}, 2), 1);
}

TEST(BudgetPredictorTest, DamagedWeightsAreRefusedByName) {
  const auto error = [](auto change) {
    PredictorWeights weights = RandomWeights(1);
    change(&weights);
    return std::string(BudgetPredictor::Make(std::move(weights)).status().message());
  };
  EXPECT_EQ(error([](PredictorWeights*) {}), "");
  EXPECT_EQ(error([](PredictorWeights* w) { w->layers[1].weight.pop_back(); }),
            "tensor 'w2' has 65535 elements; 65536 were expected");
  EXPECT_EQ(error([](PredictorWeights* w) { w->num_layers = 3; }),
            "tensor 'head_rates' has 12 elements; 18 were expected");
  EXPECT_EQ(error([](PredictorWeights* w) { w->layers[3].bias[2] = INFINITY; }),
            "tensor 'b4' has a value that is not finite");
  EXPECT_EQ(error([](PredictorWeights* w) { w->feature_std[40] = 0; }),
            "tensor 'feature_std' has a value that is not above 0");
  EXPECT_EQ(error([](PredictorWeights* w) { w->retrieval_threshold = NAN; }), "the retrieval threshold is not finite");
}

}  // namespace
}  // namespace tributary
