// What only some model families do around attention and MLP: norms behind them, norms over all heads, scaled branches,
// and logits that are scaled or capped.
#pragma once

#include <cstdint>

#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

// hidden += scale * x, where x = branch + bias (if there is one), or its RMSNorm with `weight` (if there is one).
struct AddBranchArgs {
  const float* branch = nullptr;  // [rows][hidden_size]
  const float* bias = nullptr;    // [hidden_size] or null
  const float* weight = nullptr;  // [hidden_size] or null
  float eps = 0;
  float scale = 1;
  float* hidden = nullptr;  // [rows][hidden_size]
  uint32_t rows = 0;
  uint32_t hidden_size = 0;
};
cudaError_t AddBranch(const AddBranchArgs& args, const Launch& launch);

// RMSNorm of a part of each row, in place: all of q, or all of k, before RoPE (OLMo 2). The bias comes first.
struct NormaliseSpanArgs {
  float* rows_base = nullptr;  // the part of row 0
  uint32_t row_stride = 0;     // elements
  uint32_t size = 0;           // of the part
  const float* weight = nullptr;
  float eps = 0;
  uint32_t rows = 0;
};
cudaError_t NormaliseSpan(const NormaliseSpanArgs& args, const Launch& launch);

// logits = scale * logits; then cap tanh(logits / cap) unless cap is 0.
struct FinishLogitsArgs {
  float* logits = nullptr;  // [count]
  uint64_t count = 0;
  float scale = 1;
  float cap = 0;
};
cudaError_t FinishLogits(const FinishLogitsArgs& args, const Launch& launch);

}  // namespace tributary::gpu
