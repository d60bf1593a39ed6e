#include "gpu_worker/device/cuda/kernels/embed.h"

#include "gpu_worker/device/cuda/kernels/device_common.cuh"

namespace tributary::gpu {
namespace {

constexpr uint32_t kThreads = 256;

// RopeInverseFrequencies() of a token whose context has so many tokens.
__device__ float InverseFrequency(const RopeBase& base, uint32_t i, uint32_t half_dim, uint64_t context_tokens) {
  if (context_tokens <= base.original_tokens) return base.inverse_frequencies[i];
  if (base.long_inverse_frequencies != nullptr) return base.long_inverse_frequencies[i];
  if (base.dynamic_theta == 0) return base.inverse_frequencies[i];
  const double original = static_cast<double>(base.original_tokens), dim = 2.0 * half_dim;
  const double growth =
      base.dynamic_factor * static_cast<double>(context_tokens) / original - (base.dynamic_factor - 1);
  const float theta = static_cast<float>(base.dynamic_theta * pow(growth, dim / (dim - 2)));
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(2 * half_dim);
  return 1.0f / static_cast<float>(pow(static_cast<double>(theta), static_cast<double>(exponent)));
}

__device__ void WriteAngles(const RopeTable& rope, uint32_t row, uint64_t pos, uint64_t context_tokens) {
  for (uint32_t b = 0; b < rope.num_bases; ++b) {
    const RopeBase& base = rope.bases[b];
    const size_t begin = b * rope.base_stride + size_t{row} * rope.half_dim;
    for (uint32_t i = threadIdx.x; i < rope.half_dim; i += blockDim.x) {
      const float angle = static_cast<float>(pos) * InverseFrequency(base, i, rope.half_dim, context_tokens);
      double sine, cosine;
      sincos(static_cast<double>(angle), &sine, &cosine);
      rope.cos[begin + i] = static_cast<float>(cosine) * base.attention_factor;
      rope.sin[begin + i] = static_cast<float>(sine) * base.attention_factor;
    }
  }
}

__device__ void CopyEmbedding(const void* table, DType dtype, uint32_t token, uint32_t hidden_size, float scale,
                              float* hidden) {
  const size_t begin = size_t{token} * hidden_size;
  for (uint32_t i = threadIdx.x; i < hidden_size; i += blockDim.x) {
    hidden[i] = LoadAs(table, dtype, begin + i) * scale;
  }
}

__global__ void BeginRowsKernel(const BeginRowsArgs args) {
  BeginKernel();
  const uint32_t r = blockIdx.x;
  const DecodeRowDesc& row = args.rows[r];
  WriteAngles(args.rope, r, row.pos, row.pos + 1);
  CopyEmbedding(args.table, args.table_dtype, row.token, args.hidden_size, args.scale,
                args.hidden + size_t{r} * args.hidden_size);
}

__global__ void BeginTokensKernel(const BeginTokensArgs args) {
  BeginKernel();
  const uint32_t t = blockIdx.x;
  if (args.rope.cos != nullptr) WriteAngles(args.rope, t, args.first_pos + t, args.context_tokens);
  if (args.table == nullptr) return;
  CopyEmbedding(args.table, args.table_dtype, args.tokens[t], args.hidden_size, args.scale,
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
