// A model's weights as the host device computes with them: f32, projections that read the same
// input stacked.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/aligned_buffer.h"
#include "gpu_worker/device/host/layer_ops.h"
#include "gpu_worker/device/host/matmul.h"
#include "gpu_worker/device/layer_map.h"
#include "model/weights.h"

namespace tributary {

// An MLP among others, with the experts' intermediate size.
struct HostExpert {
  AlignedBuffer<float> gate_up;  // [2 intermediate][hidden]
  AlignedBuffer<float> down;     // [hidden][intermediate]
};

// Empty buffers: this model has none. Norms' weights have the model's offset in them.
struct HostLayer {
  AlignedBuffer<float> attention_norm;       // [hidden]
  AlignedBuffer<float> qkv;                  // [q_dim + 2 kv_dim][hidden]: q, k, v
  AlignedBuffer<float> qkv_bias;             // [q_dim + 2 kv_dim]
  AlignedBuffer<float> q_norm;               // [head_dim], or of the whole projection
  AlignedBuffer<float> k_norm;               // likewise
  AlignedBuffer<float> o;                    // [hidden][q_dim]
  AlignedBuffer<float> o_bias;               // [hidden]
  AlignedBuffer<float> attention_post_norm;  // [hidden]
  AlignedBuffer<float> mlp_norm;             // [hidden]
  AlignedBuffer<float> gate_up;              // [2 intermediate][hidden]: gate, up
  AlignedBuffer<float> down;                 // [hidden][intermediate]
  AlignedBuffer<float> mlp_post_norm;        // [hidden]
  AlignedBuffer<float> router;               // [num_experts][hidden]
  std::vector<HostExpert> experts;
};

// Immutable; thread-safe.
class HostWeights {
 public:
  // Copies. Throws std::bad_alloc: check Bytes() first.
  explicit HostWeights(std::shared_ptr<const ModelWeights> source);

  // What the copies take.
  static uint64_t Bytes(const ModelWeights& source);

  const ModelWeights& source() const { return *source_; }
  const ModelConfig& config() const { return source_->config; }
  size_t q_dim() const { return size_t{config().attention.num_q_heads} * config().attention.head_dim; }
  size_t kv_dim() const { return size_t{config().attention.num_kv_heads} * config().attention.head_dim; }

  const HostLayer& layer(uint32_t idx) const { return layers_[idx]; }
  // Which layers have KV in shards.
  const LayerMap& layers() const { return layer_map_; }
  MatrixView qkv(uint32_t idx) const { return {layer(idx).qkv.data(), q_dim() + 2 * kv_dim(), config().hidden_size}; }
  MatrixView o(uint32_t idx) const { return {layer(idx).o.data(), config().hidden_size, q_dim()}; }
  MatrixView gate_up(uint32_t idx) const {
    return {layer(idx).gate_up.data(), 2 * size_t{config().intermediate_size}, config().hidden_size};
  }
  MatrixView down(uint32_t idx) const {
    return {layer(idx).down.data(), config().hidden_size, config().intermediate_size};
  }
  MatrixView router(uint32_t idx) const {
    return {layer(idx).router.data(), config().moe.num_experts, config().hidden_size};
  }
  MatrixView gate_up(uint32_t idx, uint32_t expert) const {
    return {layer(idx).experts[expert].gate_up.data(), 2 * size_t{config().moe.intermediate_size},
            config().hidden_size};
  }
  MatrixView down(uint32_t idx, uint32_t expert) const {
    return {layer(idx).experts[expert].down.data(), config().hidden_size, config().moe.intermediate_size};
  }
  ResidualRule attention_rule(uint32_t idx) const {
    return {layer(idx).o_bias.span(), layer(idx).attention_post_norm.span(), eps(), residual_scale()};
  }
  ResidualRule mlp_rule(uint32_t idx) const { return {{}, layer(idx).mlp_post_norm.span(), eps(), residual_scale()}; }
  MatrixView lm_head() const { return {lm_head_.data(), config().vocab_size, config().hidden_size}; }
  std::span<const float> final_norm() const { return final_norm_.span(); }
  float eps() const { return static_cast<float>(config().rms_norm_eps); }
  float residual_scale() const { return static_cast<float>(config().residual_scale); }
  // What the residual stream of a token begins with, [hidden], read from the file's map.
  void Embed(uint32_t token, float* out) const;

 private:
  std::shared_ptr<const ModelWeights> source_;
  LayerMap layer_map_;
  std::vector<HostLayer> layers_;
  AlignedBuffer<float> final_norm_;  // [hidden]
  AlignedBuffer<float> lm_head_;     // [vocab][hidden]
};

}  // namespace tributary
