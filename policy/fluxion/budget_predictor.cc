#include "policy/fluxion/budget_predictor.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr float kMaxDeviations = 8;  // features beyond are clamped: nothing was trained there
constexpr float kLeastLogShare = -9.0f;

absl::Status CheckTensor(const char* name, std::span<const float> values, size_t expected) {
  if (values.size() != expected) {
    return absl::InvalidArgumentError(
        fmt::format("tensor '{}' has {} elements; {} were expected", name, values.size(), expected));
  }
  if (std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(fmt::format("tensor '{}' has a value that is not finite", name));
}

absl::Status CheckWeights(const PredictorWeights& weights) {
  std::vector<absl::Status> checks = {
      CheckTensor("feature_mean", weights.feature_mean, kNumFluxionFeatures),
      CheckTensor("feature_std", weights.feature_std, kNumFluxionFeatures),
      CheckTensor("head_rates", weights.head_rates, size_t{weights.num_layers} * weights.num_q_heads * 2)};
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const size_t in = PredictorWeights::kWidths[i], out = PredictorWeights::kWidths[i + 1];
    checks.push_back(CheckTensor(fmt::format("w{}", i + 1).c_str(), weights.layers[i].weight, in * out));
    checks.push_back(CheckTensor(fmt::format("b{}", i + 1).c_str(), weights.layers[i].bias, out));
  }
  for (const absl::Status& check : checks) {
    if (!check.ok()) return check;
  }
  const auto is_positive = [](float value) { return value > 0; };
  if (!std::all_of(weights.feature_std.begin(), weights.feature_std.end(), is_positive)) {
    return absl::InvalidArgumentError("tensor 'feature_std' has a value that is not above 0");
  }
  if (std::isfinite(weights.retrieval_threshold)) return absl::OkStatus();
  return absl::InvalidArgumentError("the retrieval threshold is not finite");
}

}  // namespace

double ShareOf(const PredictedBudget& budget, uint32_t size_idx) {
  if (budget.share == 0) return 0;
  const double share = double{budget.share} + double{budget.growth} * size_idx;
  // Written so that NaN is all.
  return share < 1 ? std::max(share, 0.0) : 1.0;
}

absl::StatusOr<BudgetPredictor> BudgetPredictor::Make(PredictorWeights weights) {
  const absl::Status checked = CheckWeights(weights);
  if (!checked.ok()) return checked;
  return BudgetPredictor(std::move(weights));
}

PredictedBudget BudgetPredictor::Predict(const FluxionFeatures& features) const {
  std::array<float, 256> in{}, out{};
  for (uint32_t i = 0; i < kNumFluxionFeatures; ++i) {
    const float value = (features[i] - weights_.feature_mean[i]) / weights_.feature_std[i];
    if (std::isnan(value)) return {.share = 1};  // what cannot be judged is read
    in[i] = std::clamp(value, -kMaxDeviations, kMaxDeviations);
  }
  for (size_t l = 0; l < weights_.layers.size(); ++l) {
    const uint32_t num_in = PredictorWeights::kWidths[l], num_out = PredictorWeights::kWidths[l + 1];
    const PredictorWeights::Layer& layer = weights_.layers[l];
    const bool is_last = l + 1 == weights_.layers.size();
    for (uint32_t o = 0; o < num_out; ++o) {
      const float* const row = layer.weight.data() + size_t{o} * num_in;
      float sum = layer.bias[o];
      for (uint32_t i = 0; i < num_in; ++i) sum += row[i] * in[i];
      out[o] = is_last ? sum : std::max(sum, 0.0f);
    }
    std::swap(in, out);
  }
  if (in[0] < weights_.retrieval_threshold) return {};
  const float softplus = in[2] > 20 ? in[2] : std::log1p(std::exp(in[2]));
  const float share = std::exp(std::clamp(in[1], kLeastLogShare, 0.0f));
  // The growth is trained as a multiple of the share.
  return {.share = share, .growth = share * softplus};
}

std::span<const float> BudgetPredictor::head_rates(uint32_t layer) const {
  TRIBUTARY_CHECK_LT(layer, weights_.num_layers);
  const size_t per_layer = size_t{weights_.num_q_heads} * 2;
  return std::span(weights_.head_rates).subspan(layer * per_layer, per_layer);
}

}  // namespace tributary
