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

void AddBranch(const ResidualRule& rule, size_t size, float* branch, float* hidden) {
  if (rule.is_plain()) {
    for (size_t i = 0; i < size; ++i) hidden[i] += branch[i];
    AddBias(rule.bias, hidden);
    return;
  }
  AddBias(rule.bias, branch);
  if (!rule.norm.empty()) RmsNorm({branch, size}, rule.norm, rule.eps, branch);
  for (size_t i = 0; i < size; ++i) hidden[i] += rule.scale * branch[i];
}

void FinishLogits(const ModelConfig& config, std::span<float> logits) {
  const auto scale = static_cast<float>(config.logits_scale);
  const auto cap = static_cast<float>(config.logits_soft_cap);
  if (scale != 1.0f) {
    for (float& logit : logits) logit *= scale;
  }
  if (cap != 0.0f) {
    for (float& logit : logits) logit = cap * std::tanh(logit / cap);
  }
}

void NormaliseHeads(const ModelConfig& config, std::span<const float> weight, std::span<float> heads) {
  if (weight.empty()) return;
  const auto eps = static_cast<float>(config.rms_norm_eps);
  for (size_t begin = 0; begin < heads.size(); begin += weight.size()) {
    RmsNorm(heads.subspan(begin, weight.size()), weight, eps, heads.data() + begin);
  }
}

Rope::Rope(const ModelConfig& config)
    : rotary_dim_(config.rotary_dim), half_dim_(rotary_dim_ / 2), turns_neighbours_(config.turns_neighbours) {
  for (const RopeParameters& parameters : config.ropes) {
    bases_.push_back({parameters, RopeInverseFrequencies(parameters, rotary_dim_, 0)});
  }
}

void Rope::Angles(uint64_t pos, uint64_t context_tokens, float* cos, float* sin) const {
  std::vector<float> followed;
  for (const Base& base : bases_) {
    const std::vector<float>* frequencies = &base.inverse_frequencies;
    if (base.parameters.follows_length() && context_tokens > base.parameters.original_max_position_embeddings) {
      followed = RopeInverseFrequencies(base.parameters, rotary_dim_, context_tokens);
      frequencies = &followed;
    }
    const auto factor = static_cast<float>(base.parameters.attention_factor);
    for (size_t i = 0; i < half_dim_; ++i) {
      const float angle = static_cast<float>(pos) * (*frequencies)[i];
      *cos++ = static_cast<float>(std::cos(static_cast<double>(angle))) * factor;
      *sin++ = static_cast<float>(std::sin(static_cast<double>(angle))) * factor;
    }
  }
}

void Rope::Rotate(const LayerSpec& layer, const float* cos, const float* sin, float* head) const {
  if (layer.rope == kNoRope) return;
  cos += layer.rope * half_dim_;
  sin += layer.rope * half_dim_;
  const auto turn = [](float cosine, float sine, float& low, float& high) {
    const float a = low;
    const float b = high;
    low = a * cosine - b * sine;
    high = b * cosine + a * sine;
  };
  if (turns_neighbours_) {
    for (size_t i = 0; i < half_dim_; ++i) turn(cos[i], sin[i], head[2 * i], head[2 * i + 1]);
  } else {
    for (size_t i = 0; i < half_dim_; ++i) turn(cos[i], sin[i], head[i], head[i + half_dim_]);
  }
}

}  // namespace tributary
