// Makes q, k and v out of the raw projections: bias, RMSNorm of each q and k head (Qwen3, Gemma 3), RoPE, and each
// result to where it is read next.
#pragma once

#include <cstdint>

#include "gpu_worker/device/cuda/kernels/decode_rows.h"
#include "gpu_worker/device/cuda/kernels/doorbell.h"

namespace tributary::gpu {

// Which elements of a head turn: the first 2 count, as pairs (x[i], x[i + count]), or (x[2 i], x[2 i + 1]).
struct RopePairs {
  uint32_t count = 0;  // at most head_dim / 2
  bool neighbours = false;
};

struct QkvInput {
  const void* qkv = nullptr;      // [rows][(num_q_heads + 2 num_kv_heads) * head_dim] of dtype: q, k, v
  DType dtype = DType::kUnset;    // f32, bf16
  const float* bias = nullptr;    // [(num_q_heads + 2 num_kv_heads) * head_dim] or null
  const float* q_norm = nullptr;  // [head_dim] or null
  const float* k_norm = nullptr;  // [head_dim] or null
  float eps = 0;
  const float* cos = nullptr;  // [rows][pairs.count]; null: the layer has no RoPE
  const float* sin = nullptr;
  RopePairs pairs;
  uint32_t num_rows = 0;
  KvGeometry geometry;
};

// Decode: k and v go to the append slot of `layer`, rounded to the row's KV dtype; q to `q`, and to the host, whose
// flag is rung when all of it is there.
struct FinishQkvArgs {
  QkvInput input;
  const DecodeRowDesc* rows = nullptr;
  uint32_t layer = 0;
  // Rounds each row's q to its KV's dtype, as a model in that dtype does: dot products of 16 bits then need not split
  // it.
  bool round_q = false;
  float* q = nullptr;       // [num_rows][num_q_heads][head_dim], device memory
  float* host_q = nullptr;  // the same in pinned host memory, or null
  Ring ring;
};
cudaError_t FinishQkv(const FinishQkvArgs& args, const Launch& launch);

// Prefill. Null: not wanted, and its part of the input is not read.
struct FinishQkvPrefillArgs {
  QkvInput input;
  DType q_dtype = DType::kUnset;
  DType kv_dtype = DType::kUnset;
  void* q = nullptr;  // [num_rows][num_q_heads][head_dim] of q_dtype
  void* k = nullptr;  // [num_rows][num_kv_heads][head_dim] of kv_dtype
  void* v = nullptr;
};
cudaError_t FinishQkvPrefill(const FinishQkvPrefillArgs& args, const Launch& launch);

}  // namespace tributary::gpu
