#include "gpu_worker/device/cuda/kernels/embed.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kThreads = 256;

__device__ void WriteAngles(const RopeTable& rope, uint32_t row, uint64_t pos) {
  for (uint32_t i = threadIdx.x; i < rope.half_dim; i += blockDim.x) {
    const float angle = static_cast<float>(pos) * rope.inverse_frequencies[i];
    double sine, cosine;
    sincos(static_cast<double>(angle), &sine, &cosine);
    rope.cos[size_t{row} * rope.half_dim + i] = static_cast<float>(cosine);
    rope.sin[size_t{row} * rope.half_dim + i] = static_cast<float>(sine);
  }
}

__device__ void CopyEmbedding(const void* table, DType dtype, uint32_t token, uint32_t hidden_size, float* hidden) {
  const size_t begin = size_t{token} * hidden_size;
  for (uint32_t i = threadIdx.x; i < hidden_size; i += blockDim.x) {
    hidden[i] = LoadAs(table, dtype, begin + i);
  }
}

__global__ void BeginRowsKernel(const BeginRowsArgs args) {
  BeginKernel();
  const uint32_t r = blockIdx.x;
  const DecodeRowDesc& row = args.rows[r];
  WriteAngles(args.rope, r, row.pos);
  CopyEmbedding(args.table, args.table_dtype, row.token, args.hidden_size, args.hidden + size_t{r} * args.hidden_size);
}

__global__ void BeginTokensKernel(const BeginTokensArgs args) {
  BeginKernel();
  const uint32_t t = blockIdx.x;
  if (args.rope.cos != nullptr) WriteAngles(args.rope, t, args.first_pos + t);
  if (args.table == nullptr) return;
  CopyEmbedding(args.table, args.table_dtype, args.tokens[t], args.hidden_size,
                args.hidden + size_t{t} * args.hidden_size);
}

}  // namespace

cudaError_t BeginRows(const BeginRowsArgs& args, const Launch& launch) {
  if (args.num_rows == 0 || !IsFloatDType(args.table_dtype)) return cudaErrorInvalidValue;
  // Bytes: rows x hidden x (table dtype read + 4 written) + angles. Ceiling: a launch.
  return LaunchKernel(launch, BeginRowsKernel, dim3(args.num_rows), kThreads, 0, args);
}

cudaError_t BeginTokens(const BeginTokensArgs& args, const Launch& launch) {
  if (args.num_tokens == 0 || (args.table != nullptr && !IsFloatDType(args.table_dtype))) {
    return cudaErrorInvalidValue;
  }
  // Bytes: tokens x hidden x (table dtype read + 4 written) + angles. Ceiling: device memory.
  return LaunchKernel(launch, BeginTokensKernel, dim3(args.num_tokens), kThreads, 0, args);
}

}  // namespace tributary::gpu
