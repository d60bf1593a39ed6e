// A layer of experts (Mixtral, arXiv 2401.04088, section 2.1), in plain arithmetic: each token reads its own experts'
// weights, which is right for any batch and as fast as the bytes for one token alone.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "gpu_worker/device/cuda/kernels/activation.h"
#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

inline constexpr uint32_t kMaxExpertsPerToken = 32;

// Of each row's router logits: the experts_per_token highest, of equal ones the lower numbers, by their numbers, and
// their softmax weights, which sum to 1 among them or among all experts.
struct ChooseExpertsArgs {
  const float* logits = nullptr;  // [rows][num_experts]
  const float* bias = nullptr;    // [num_experts], of the logits, or null
  uint32_t* experts = nullptr;    // [rows][experts_per_token]
  float* weights = nullptr;       // likewise
  uint32_t rows = 0;
  uint32_t num_experts = 0;
  uint32_t experts_per_token = 0;  // at most kMaxExpertsPerToken
  bool normalises_weights = true;
};
cudaError_t ChooseExperts(const ChooseExpertsArgs& args, const Launch& launch);

// out[r] = sum over the row's experts of weight * (down (what the activation makes of gate x and up x)), in the order
// of their numbers, with each product's bias, if there is one.
struct RunExpertsArgs {
  const void* x = nullptr;              // [rows][hidden] of dtype
  const void* gate_up = nullptr;        // [num_experts][2 intermediate][hidden] of dtype: gate, up
  const void* down = nullptr;           // [num_experts][hidden][intermediate] of dtype
  const float* gate_up_bias = nullptr;  // [num_experts][2 intermediate] or null
  const float* down_bias = nullptr;     // [num_experts][hidden] or null
  DType dtype = DType::kUnset;
  GateActivation activation = GateActivation::kSilu;
  const uint32_t* experts = nullptr;  // [rows][experts_per_token]
  const float* weights = nullptr;     // likewise
  float* gated = nullptr;             // scratch: [rows][experts_per_token][intermediate]
  float* out = nullptr;               // [rows][hidden]
  uint32_t rows = 0;
  uint32_t experts_per_token = 0;
  uint32_t hidden = 0;
  uint32_t intermediate = 0;
};
cudaError_t RunExperts(const RunExpertsArgs& args, const Launch& launch);

}  // namespace tributary::gpu
