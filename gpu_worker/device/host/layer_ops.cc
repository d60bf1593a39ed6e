#include "gpu_worker/device/host/layer_ops.h"

#include <cmath>

namespace tributary {

void RmsNorm(std::span<const float> x, std::span<const float> weight, float eps, float* out) {
  // Four sums: one alone would wait for each addition in turn.
  double sums[4] = {};
  size_t i = 0;
  for (; i + 4 <= x.size(); i += 4) {
    for (size_t j = 0; j < 4; ++j) sums[j] += static_cast<double>(x[i + j]) * x[i + j];
  }
  for (; i < x.size(); ++i) sums[0] += static_cast<double>(x[i]) * x[i];
  const double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  const float mean = static_cast<float>(sum / static_cast<double>(x.size()));
  const float factor = 1.0f / std::sqrt(mean + eps);
  for (size_t k = 0; k < x.size(); ++k) out[k] = x[k] * factor * weight[k];
}

void AddBias(std::span<const float> bias, float* x) {
  for (size_t i = 0; i < bias.size(); ++i) x[i] += bias[i];
}

Rope::Rope(const ModelConfig& config) {
  for (const double frequency : RopeInverseFrequencies(config)) {
    inverse_frequencies_.push_back(static_cast<float>(frequency));
  }
}

void Rope::Angles(uint64_t pos, float* cos, float* sin) const {
  for (size_t i = 0; i < inverse_frequencies_.size(); ++i) {
    const float angle = static_cast<float>(pos) * inverse_frequencies_[i];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

void Rope::Rotate(const float* cos, const float* sin, size_t half_dim, float* head) {
  for (size_t i = 0; i < half_dim; ++i) {
    const float a = head[i];
    const float b = head[i + half_dim];
    head[i] = a * cos[i] - b * sin[i];
    head[i + half_dim] = b * cos[i] + a * sin[i];
  }
}

}  // namespace tributary
