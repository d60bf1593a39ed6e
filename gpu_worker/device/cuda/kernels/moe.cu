#include "gpu_worker/device/cuda/kernels/moe.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kWarps = 8;

// A row's logits, with what is added to them.
struct RouterLogits {
  const float* logits;
  const float* bias;
  __device__ float operator[](uint32_t i) const { return bias == nullptr ? logits[i] : logits[i] + bias[i]; }
};

// The highest logit of those not yet taken; of equal ones the lowest number. NaN counts as the lowest, so that all
// lanes agree. REQUIRES: fewer than count are taken.
__device__ uint32_t HighestOfWarp(const RouterLogits& logits, uint32_t count, uint32_t lane, const uint32_t* taken,
                                  uint32_t num_taken) {
  float best = -INFINITY;
  uint32_t best_idx = ~0u;
  for (uint32_t i = lane; i < count; i += kWarpSize) {
    bool is_taken = false;
    for (uint32_t t = 0; t < num_taken; ++t) is_taken |= taken[t] == i;
    const float logit = isnan(logits[i]) ? -INFINITY : logits[i];
    if (!is_taken && (best_idx == ~0u || logit > best)) {
      best = logit;
      best_idx = i;
    }
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, best, offset);
    const uint32_t other_idx = __shfl_xor_sync(kAllLanes, best_idx, offset);
    if (other > best || (other == best && other_idx < best_idx)) {
      best = other;
      best_idx = other_idx;
    }
  }
  return best_idx;
}

// One warp for each row.
__global__ void ChooseExpertsKernel(const ChooseExpertsArgs args) {
  BeginKernel();
  const uint32_t row = blockIdx.x, lane = threadIdx.x;
  const RouterLogits logits{args.logits + size_t{row} * args.num_experts, args.bias};
  uint32_t taken[kMaxExpertsPerToken];
  for (uint32_t t = 0; t < args.experts_per_token; ++t) {
    taken[t] = HighestOfWarp(logits, args.num_experts, lane, taken, t);
  }
  const float max = logits[taken[0]];
  float sum = 0;
  if (args.normalises_weights) {
    for (uint32_t t = 0; t < args.experts_per_token; ++t) sum += expf(logits[taken[t]] - max);
  } else {
    for (uint32_t i = lane; i < args.num_experts; i += kWarpSize) sum += expf(logits[i] - max);
    sum = WarpSum(sum);
  }
  for (uint32_t t = lane; t < args.experts_per_token; t += kWarpSize) {
    uint32_t rank = 0;  // among the chosen, by number
    for (uint32_t other = 0; other < args.experts_per_token; ++other) rank += taken[other] < taken[t];
    args.experts[size_t{row} * args.experts_per_token + rank] = taken[t];
    args.weights[size_t{row} * args.experts_per_token + rank] = expf(logits[taken[t]] - max) / sum;
  }
}

template <typename T, typename X>
__device__ float WarpDot(const T* w, const X* x, uint32_t size, uint32_t lane) {
  float dot = 0;
  for (uint32_t k = lane; k < size; k += kWarpSize) dot += ToF32(w[k]) * ToF32(x[k]);
  return WarpSum(dot);
}

// A warp for each output of each (row, expert).
template <typename T>
__global__ void GateUpKernel(const RunExpertsArgs args) {
  BeginKernel();
  const uint32_t i = blockIdx.x * kWarps + threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const uint32_t choice = blockIdx.y;
  if (i >= args.intermediate) return;
  const T* const x = static_cast<const T*>(args.x) + size_t{choice / args.experts_per_token} * args.hidden;
  const T* const gate_up =
      static_cast<const T*>(args.gate_up) + size_t{args.experts[choice]} * 2 * args.intermediate * args.hidden;
  float gate = WarpDot(gate_up + size_t{i} * args.hidden, x, args.hidden, lane);
  float up = WarpDot(gate_up + size_t{args.intermediate + i} * args.hidden, x, args.hidden, lane);
  if (args.gate_up_bias != nullptr) {
    const float* const bias = args.gate_up_bias + size_t{args.experts[choice]} * 2 * args.intermediate;
    gate += bias[i];
    up += bias[args.intermediate + i];
  }
  if (lane == 0) args.gated[size_t{choice} * args.intermediate + i] = Gated(args.activation, gate, up);
}

template <typename T>
__global__ void DownKernel(const RunExpertsArgs args) {
  BeginKernel();
  const uint32_t i = blockIdx.x * kWarps + threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const uint32_t row = blockIdx.y;
  if (i >= args.hidden) return;
  float sum = 0;
  for (uint32_t t = 0; t < args.experts_per_token; ++t) {
    const size_t choice = size_t{row} * args.experts_per_token + t;
    const T* const down =
        static_cast<const T*>(args.down) + (size_t{args.experts[choice]} * args.hidden + i) * args.intermediate;
    float x = WarpDot(down, args.gated + choice * args.intermediate, args.intermediate, lane);
    if (args.down_bias != nullptr) x += args.down_bias[size_t{args.experts[choice]} * args.hidden + i];
    sum += args.weights[choice] * x;
  }
  if (lane == 0) args.out[size_t{row} * args.hidden + i] = sum;
}

template <typename T>
cudaError_t Run(const RunExpertsArgs& args, const Launch& launch) {
  const dim3 gate_grid(CeilDiv(args.intermediate, kWarps), args.rows * args.experts_per_token);
  // Bytes: rows x experts_per_token x 2 intermediate x hidden of dtype. Ceiling: device memory, L2 where rows share
  // experts.
  const cudaError_t error = LaunchKernel(launch, GateUpKernel<T>, gate_grid, kWarps * kWarpSize, 0, args);
  if (error != cudaSuccess) return error;
  // Bytes: rows x experts_per_token x hidden x intermediate of dtype. Ceiling: likewise.
  return LaunchKernel(launch, DownKernel<T>, dim3(CeilDiv(args.hidden, kWarps), args.rows), kWarps * kWarpSize, 0,
                      args);
}

}  // namespace

cudaError_t ChooseExperts(const ChooseExpertsArgs& args, const Launch& launch) {
  if (args.rows == 0 || args.experts_per_token == 0 || args.experts_per_token > kMaxExpertsPerToken ||
      args.experts_per_token > args.num_experts) {
    return cudaErrorInvalidValue;
  }
  // Bytes: rows x num_experts x 4 read. Ceiling: a launch.
  return LaunchKernel(launch, ChooseExpertsKernel, dim3(args.rows), kWarpSize, 0, args);
}

cudaError_t RunExperts(const RunExpertsArgs& args, const Launch& launch) {
  if (args.rows == 0 || args.rows * args.experts_per_token > 65535) return cudaErrorInvalidValue;
  if (args.dtype == DType::kF32) return Run<float>(args, launch);
  if (args.dtype == DType::kBf16) return Run<__nv_bfloat16>(args, launch);
  if (args.dtype == DType::kF16) return Run<__half>(args, launch);
  return cudaErrorInvalidValue;
}

}  // namespace tributary::gpu
