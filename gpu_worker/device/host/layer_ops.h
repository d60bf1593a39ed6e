// The small steps of a transformer layer on f32 rows, as Hugging Face's Llama family does them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model/model_config.h"

namespace tributary {

// out = x / sqrt(mean(x^2) + eps) * weight. `out` may be `x`.
void RmsNorm(std::span<const float> x, std::span<const float> weight, float eps, float* out);

// x += bias; nothing if there is no bias.
void AddBias(std::span<const float> bias, float* x);

// Rotary position embedding, rotate_half form: pair i of a head is (x[i], x[i + head_dim / 2]).
class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  size_t half_dim() const { return inverse_frequencies_.size(); }
  // cos and sin of each pair's angle, [half_dim] each. The angle is rounded to f32 first, as
  // Hugging Face does.
  void Angles(uint64_t pos, float* cos, float* sin) const;
  static void Rotate(const float* cos, const float* sin, size_t half_dim, float* head);

 private:
  std::vector<float> inverse_frequencies_;
};

}  // namespace tributary
