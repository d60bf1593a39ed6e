// A trained predictor of how many blocks a query head needs: a perceptron 41-256-256-128-3 over the features of
// feature_spec.h, of one model. It says whether the resident tokens suffice (a streaming head), and else a budget that
// grows with the logarithm of the block size, because larger blocks hold more that nobody asked for (arXiv 2605.07719,
// "granularity-aware": linear in log2). Trained offline by tools/train_fluxion.py. Pure; immutable, thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "policy/fluxion/head_features.h"

namespace tributary {

// Shares of the remote tokens.
struct PredictedBudget {
  float share = 0;   // with blocks of 16 tokens; 0: the head needs none
  float growth = 0;  // more for each doubling of the block size

  friend bool operator==(const PredictedBudget&, const PredictedBudget&) = default;
};

// The share with blocks of kFluxionBlockTokens[size_idx], in [0, 1]; what is not a number is all.
double ShareOf(const PredictedBudget& budget, uint32_t size_idx);

struct PredictorWeights {
  static constexpr std::array<uint32_t, 5> kWidths = {kNumFluxionFeatures, 256, 256, 128, 3};

  struct Layer {
    std::vector<float> weight;  // [out][in]
    std::vector<float> bias;    // [out]
  };
  std::vector<float> feature_mean;  // [41]
  std::vector<float> feature_std;   // [41], above 0
  std::vector<float> head_rates;    // [layer][q_head][2], of the training set (features 4 and 5)
  std::array<Layer, 4> layers;
  float retrieval_threshold = 0;  // a head whose first output is at least this needs blocks
  uint32_t num_layers = 0;
  uint32_t num_q_heads = 0;
};

class BudgetPredictor {
 public:
  // INVALID_ARGUMENT for a tensor of another size or values that are not finite.
  static absl::StatusOr<BudgetPredictor> Make(PredictorWeights weights);

  PredictedBudget Predict(const FluxionFeatures& features) const;
  // [q_head][2] of the layer.
  std::span<const float> head_rates(uint32_t layer) const;

 private:
  explicit BudgetPredictor(PredictorWeights weights) : weights_(std::move(weights)) {}

  PredictorWeights weights_;
};

}  // namespace tributary
