// A model's weights as the host device computes with them: matrices as the file has them, read from its map, or rounded
// to int8; vectors in f32. Projections that read the same input are one matrix of several parts.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "gpu_worker/device/host/int8_matrix.h"
#include "gpu_worker/device/host/layer_ops.h"
#include "gpu_worker/device/host/matmul.h"
#include "gpu_worker/device/host/weight_dtype.h"
#include "gpu_worker/device/layer_map.h"
#include "model/weights.h"

namespace tributary {

// An MLP among others, with the experts' intermediate size.
struct HostExpert {
  MatrixView gate_up;                 // [2 intermediate][hidden]
  MatrixView down;                    // [hidden][intermediate]
  AlignedBuffer<float> gate_up_bias;  // [2 intermediate]
  AlignedBuffer<float> down_bias;     // [hidden]
};

// Empty buffers: this model has none. Norms' weights have the model's offset in them.
struct HostLayer {
  AlignedBuffer<float> attention_norm;       // [hidden]
  MatrixView qkv;                            // [q_dim + 2 kv_dim][hidden]: q, k, v
  AlignedBuffer<float> qkv_bias;             // [q_dim + 2 kv_dim]
  AlignedBuffer<float> q_norm;               // [head_dim], or of the whole projection
  AlignedBuffer<float> k_norm;               // likewise
  AlignedBuffer<float> sink_logits;          // [num_q_heads]
  MatrixView o;                              // [hidden][q_dim]
  AlignedBuffer<float> o_bias;               // [hidden]
  AlignedBuffer<float> attention_post_norm;  // [hidden]
  AlignedBuffer<float> mlp_norm;             // [hidden]
  MatrixView gate_up;                        // [2 intermediate][hidden]: gate, up
  MatrixView down;                           // [hidden][intermediate]
  AlignedBuffer<float> mlp_post_norm;        // [hidden]
  MatrixView router;                         // [num_experts][hidden]
  AlignedBuffer<float> router_bias;          // [num_experts]
  std::vector<HostExpert> experts;
};

// Immutable; thread-safe.
class HostWeights {
 public:
  // Reads every matrix once, so that no step waits for a disk. Throws std::bad_alloc: check Bytes() first.
  HostWeights(std::shared_ptr<const ModelWeights> source, WeightDType dtype, ThreadPool& pool);

  // What they take, the file's map included where it is read.
  static uint64_t Bytes(const ModelWeights& source, WeightDType dtype);

  const ModelWeights& source() const { return *source_; }
  const ModelConfig& config() const { return source_->config; }
  size_t q_dim() const { return size_t{config().attention.num_q_heads} * config().attention.head_dim; }
  size_t kv_dim() const { return size_t{config().attention.num_kv_heads} * config().attention.head_dim; }

  const HostLayer& layer(uint32_t idx) const { return layers_[idx]; }
  // Which layers have KV in shards.
  const LayerMap& layers() const { return layer_map_; }
  const MatrixView& qkv(uint32_t idx) const { return layer(idx).qkv; }
  const MatrixView& o(uint32_t idx) const { return layer(idx).o; }
  const MatrixView& gate_up(uint32_t idx) const { return layer(idx).gate_up; }
  const MatrixView& down(uint32_t idx) const { return layer(idx).down; }
  const MatrixView& router(uint32_t idx) const { return layer(idx).router; }
  const HostExpert& expert(uint32_t idx, uint32_t expert_idx) const { return layer(idx).experts[expert_idx]; }
  const MatrixView& lm_head() const { return lm_head_; }
  ResidualRule attention_rule(uint32_t idx) const {
    return {layer(idx).o_bias.span(), layer(idx).attention_post_norm.span(), eps(), residual_scale()};
  }
  ResidualRule mlp_rule(uint32_t idx) const { return {{}, layer(idx).mlp_post_norm.span(), eps(), residual_scale()}; }
  std::span<const float> final_norm() const { return final_norm_.span(); }
  float eps() const { return static_cast<float>(config().rms_norm_eps); }
  float residual_scale() const { return static_cast<float>(config().residual_scale); }
  // What the residual stream of a token begins with, [hidden], read from the file's map.
  void Embed(uint32_t token, float* out) const;

 private:
  MatrixView Matrix(std::initializer_list<const TensorView*> tensors, WeightDType dtype, ThreadPool& pool);

  std::shared_ptr<const ModelWeights> source_;
  LayerMap layer_map_;
  std::vector<Int8Matrix> rounded_;  // what the views' parts point to, unless it is the file's map
  std::vector<HostLayer> layers_;
  AlignedBuffer<float> final_norm_;  // [hidden]
  MatrixView lm_head_;               // [vocab][hidden]
};

}  // namespace tributary
