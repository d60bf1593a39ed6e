// The small steps of a transformer layer on f32 rows, as Hugging Face's models do them.
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

// What attention or an MLP adds to the residual stream: hidden += scale * norm(branch + bias). Without a norm (`norm`
// is empty) and with scale 1 this is hidden += branch, then += bias. Both have `size` elements; branch is changed.
struct ResidualRule {
  std::span<const float> bias;
  std::span<const float> norm;
  float eps = 0;
  float scale = 1;

  // The product may add to the stream by itself, and bias comes after.
  bool is_plain() const { return norm.empty() && scale == 1.0f; }
};
void AddBranch(const ResidualRule& rule, size_t size, float* branch, float* hidden);

// logits *= scale; then cap tanh(logits / cap), if the model has a cap.
void FinishLogits(const ModelConfig& config, std::span<float> logits);

// RMSNorm of q or k before RoPE, over each head of head_dim or over all of them, as config.qk_norm says; in place.
// Nothing without a weight.
void NormaliseHeads(const ModelConfig& config, std::span<const float> weight, std::span<float> heads);

// Rotary position embedding of the first rotary_dim elements of a head: pair i is (x[i], x[i + rotary_dim / 2]), or
// (x[2 i], x[2 i + 1]). A model may have several bases, each with its own angles, and layers without any.
class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  // Pairs of a head.
  size_t half_dim() const { return half_dim_; }
  size_t num_bases() const { return bases_.size(); }
  // Of all bases.
  size_t angles_per_token() const { return half_dim_ * bases_.size(); }
  // cos and sin of each pair's angle, [num_bases][half_dim] each, for a token whose context has `context_tokens`
  // tokens. The angle is rounded to f32 first, as Hugging Face does.
  void Angles(uint64_t pos, uint64_t context_tokens, float* cos, float* sin) const;
  // Turns a head by the angles of the layer's base; nothing if the layer has none. cos, sin: as Angles() left them.
  void Rotate(const LayerSpec& layer, const float* cos, const float* sin, float* head) const;

 private:
  struct Base {
    RopeParameters parameters;
    std::vector<float> inverse_frequencies;  // of a short context
  };
  uint32_t rotary_dim_;
  size_t half_dim_;
  bool turns_neighbours_;
  std::vector<Base> bases_;
};

}  // namespace tributary
