// Token embeddings and RoPE angles: where a step and a prefill chunk begin.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "gpu_worker/device/cuda/kernels/decode_rows.h"
#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

// One of a model's bases of RoPE (model/rope.h).
struct RopeBase {
  const float* inverse_frequencies = nullptr;  // [half_dim]
  // Of tokens whose context is longer than original_tokens: other frequencies (longrope), or, if theta is not 0, those
  // of a base that grows with the context (dynamic).
  const float* long_inverse_frequencies = nullptr;  // [half_dim] or null
  uint64_t original_tokens = 0;
  double dynamic_theta = 0;
  double dynamic_factor = 0;
  float attention_factor = 1;  // multiplies cosine and sine
};
inline constexpr uint32_t kMaxRopeBases = 2;

// cos and sin of angle = float(pos) * inverse frequency, rounded to f32 as Hugging Face does, then evaluated in f64.
struct RopeTable {
  RopeBase bases[kMaxRopeBases];
  uint32_t num_bases = 0;
  float* cos = nullptr;  // [num_bases][base_stride]: [rows][half_dim] each
  float* sin = nullptr;
  uint64_t base_stride = 0;
  uint32_t half_dim = 0;  // pairs of a head that turn
};

// hidden[r] = table[rows[r].token] as f32, and the angles of rows[r].pos.
struct BeginRowsArgs {
  const DecodeRowDesc* rows = nullptr;
  uint32_t num_rows = 0;
  const void* table = nullptr;  // [vocab_size][hidden_size] of table_dtype
  DType table_dtype = DType::kUnset;
  float* hidden = nullptr;  // [num_rows][hidden_size]
  uint32_t hidden_size = 0;
  float scale = 1;  // of the embeddings
  RopeTable rope;
};
cudaError_t BeginRows(const BeginRowsArgs& args, const Launch& launch);

// The same for num_tokens consecutive tokens of a prompt, the first at position first_pos.
struct BeginTokensArgs {
  const uint32_t* tokens = nullptr;
  uint32_t num_tokens = 0;
  uint64_t first_pos = 0;
  const void* table = nullptr;  // null: angles only
  DType table_dtype = DType::kUnset;
  float* hidden = nullptr;  // [num_tokens][hidden_size]
  uint32_t hidden_size = 0;
  float scale = 1;              // of the embeddings
  uint64_t context_tokens = 0;  // of the whole prompt
  RopeTable rope;               // cos null: embeddings only
};
cudaError_t BeginTokens(const BeginTokensArgs& args, const Launch& launch);

}  // namespace tributary::gpu
