// The model's weights in device memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"
#include "model/weights.h"

namespace tributary {

// Device pointers, aligned to 256 bytes. Matrices are [out][in] in the compute dtype; vectors are f32. Null: this model
// has none.
struct CudaLayer {
  const float* attention_norm = nullptr;  // [hidden]
  const void* qkv = nullptr;              // [q_dim + 2 kv_dim][hidden]: q, k, v
  const float* qkv_bias = nullptr;        // [q_dim + 2 kv_dim]
  const float* q_norm = nullptr;          // [head_dim]
  const float* k_norm = nullptr;          // [head_dim]
  const void* o = nullptr;                // [hidden][q_dim]
  const float* o_bias = nullptr;          // [hidden]
  const float* mlp_norm = nullptr;        // [hidden]
  const void* gate_up = nullptr;          // [2 intermediate][hidden]: gate, up
  const void* down = nullptr;             // [hidden][intermediate]
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
  // Half of head_dim: RopeInverseFrequencies(), rounded to f32.
  const float* rope_inverse_frequencies() const { return rope_; }
  uint64_t bytes() const { return memory_.bytes(); }

 private:
  CudaWeights() = default;

  DeviceBuffer memory_;
  std::vector<CudaLayer> layers_;
  const void* embedding_ = nullptr;
  const void* lm_head_ = nullptr;
  const float* final_norm_ = nullptr;
  const float* rope_ = nullptr;
};

}  // namespace tributary
