#include "gpu_worker/device/cuda/kernels/activation.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kThreads = 256;

__global__ void GateMulKernel(const GateMulArgs args) {
  BeginKernel();
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= args.intermediate) return;
  const size_t row = blockIdx.y;
  const size_t gate_idx = row * 2 * args.intermediate + i;
  const float gate = LoadAs(args.gate_up, args.dtype, gate_idx);
  const float up = LoadAs(args.gate_up, args.dtype, gate_idx + args.intermediate);
  StoreAs(args.out, args.out_dtype, row * args.intermediate + i, Gated(args.activation, gate, up));
}

}  // namespace

cudaError_t GateMul(const GateMulArgs& args, const Launch& launch) {
  if (args.rows == 0 || args.rows > 65535 || args.intermediate == 0 || !IsFloatDType(args.dtype) ||
      !IsFloatDType(args.out_dtype)) {
    return cudaErrorInvalidValue;
  }
  // Bytes: rows x intermediate x (2 x dtype read + out dtype written). Ceiling: L2 in decode, device memory in prefill.
  return LaunchKernel(launch, GateMulKernel, dim3(CeilDiv(args.intermediate, kThreads), args.rows), kThreads, 0, args);
}

}  // namespace tributary::gpu
