// Causal attention of a chunk of a prompt over the prompt so far (FlashAttention-2: Dao 2023, forward pass).
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "gpu_worker/device/cuda/kernels/decode_rows.h"
#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

// Query i stands at position first_pos + i and sees the keys [0, first_pos + i], or with a window the last of them.
//
// Tensor cores serve q of the KV's dtype, bf16 or f16, with head_dim 64 or 128 and 16-byte aligned rows: softmax
// weights are rounded to that dtype, sums are f32. Everything else, windows and capped scores too, takes a plain f32
// kernel, in which q, K and V may have any dtypes.
struct PrefillAttendArgs {
  const void* q = nullptr;  // [num_queries][num_q_heads][head_dim]
  DType q_dtype = DType::kUnset;
  const void* k = nullptr;  // [first_pos + num_queries][num_kv_heads][head_dim]
  const void* v = nullptr;
  DType kv_dtype = DType::kUnset;
  void* out = nullptr;  // [num_queries][num_q_heads][head_dim]
  DType out_dtype = DType::kUnset;
  uint64_t first_pos = 0;
  uint32_t num_queries = 0;
  KvGeometry geometry;
  float softmax_scale = 0;
  float soft_cap = 0;          // if not 0: score = soft_cap tanh(softmax_scale q.k / soft_cap)
  uint32_t window_tokens = 0;  // that a query sees, its own included; 0: all
  const float* sink_logits =
      nullptr;  // [num_q_heads]: one more addend each of the denominator, without a value; or null
};
cudaError_t PrefillAttend(const PrefillAttendArgs& args, const Launch& launch);

// Whether PrefillAttend() takes tensor cores.
bool PrefillAttendOnTensorCores(DType q_dtype, DType kv_dtype, const KvGeometry& geometry);

// The two kernels; PrefillAttend() chooses.
cudaError_t PrefillAttendTensor(const PrefillAttendArgs& args, const Launch& launch);
cudaError_t PrefillAttendPlain(const PrefillAttendArgs& args, const Launch& launch);

}  // namespace tributary::gpu
