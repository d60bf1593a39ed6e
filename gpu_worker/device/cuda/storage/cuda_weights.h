// The model's weights in device memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/kernels/embed.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"
#include "model/weights.h"

namespace tributary {

// Device pointers, aligned to 256 bytes. Matrices are [out][in] in the compute dtype; vectors are f32, norms' with the
// model's offset in them. Null: this model has none.
struct CudaLayer {
  const float* attention_norm = nullptr;       // [hidden]
  const void* qkv = nullptr;                   // [q_dim + 2 kv_dim][hidden]: q, k, v
  const float* qkv_bias = nullptr;             // [q_dim + 2 kv_dim]
  const float* q_norm = nullptr;               // [head_dim], or of the whole projection
  const float* k_norm = nullptr;               // likewise
  const float* sink_logits = nullptr;          // [num_q_heads]
  const void* o = nullptr;                     // [hidden][q_dim]
  const float* o_bias = nullptr;               // [hidden]
  const float* attention_post_norm = nullptr;  // [hidden]
  const float* mlp_norm = nullptr;             // [hidden]
  const void* gate_up = nullptr;               // [2 intermediate][hidden]: gate, up
  const void* down = nullptr;                  // [hidden][intermediate]
  const float* mlp_post_norm = nullptr;        // [hidden]
  const void* router = nullptr;                // [num_experts][hidden]
  const float* router_bias = nullptr;          // [num_experts]
  const void* expert_gate_up = nullptr;        // [num_experts][2 intermediate of experts][hidden]
  const void* expert_down = nullptr;           // [num_experts][hidden][intermediate of experts]
  const float* expert_gate_up_bias = nullptr;  // [num_experts][2 intermediate of experts]
  const float* expert_down_bias = nullptr;     // [num_experts][hidden]
};

// Immutable; thread-safe.
class CudaWeights {
 public:
  // Uploads, and returns when the weights are there. RESOURCE_EXHAUSTED without memory.
  static absl::StatusOr<std::unique_ptr<CudaWeights>> Make(const CudaContext& context, const ModelWeights& source);

  // Device memory that Make() takes.
  static uint64_t Bytes(const ModelWeights& source, DType compute_dtype);

  const CudaLayer& layer(uint32_t idx) const { return layers_[idx]; }
  const void* embedding() const { return embedding_; }  // [vocab][hidden], compute dtype
  const void* lm_head() const { return lm_head_; }      // the same; the embedding when tied
  const float* final_norm() const { return final_norm_; }
  // By LayerSpec::rope.
  std::span<const gpu::RopeBase> rope_bases() const { return rope_bases_; }
  uint64_t bytes() const { return memory_.bytes(); }

 private:
  CudaWeights() = default;

  DeviceBuffer memory_;
  std::vector<CudaLayer> layers_;
  const void* embedding_ = nullptr;
  const void* lm_head_ = nullptr;
  const float* final_norm_ = nullptr;
  std::vector<gpu::RopeBase> rope_bases_;
};

}  // namespace tributary
