// KV out of resident slots, into the layout in which it travels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

// out[token][head] = from[head][token], vectors of vector_bytes, for K and for V.
struct GatherHeadsArgs {
  const std::byte* from[2] = {};  // K, V: the first vector of the first head
  std::byte* out[2] = {};         // [num_tokens][num_heads][vector_bytes]
  size_t head_stride_bytes = 0;   // from head to head in `from`
  uint32_t vector_bytes = 0;      // even
  uint32_t num_tokens = 0;
  uint32_t num_heads = 0;
};
// Loads the kernels. CUDA loads a kernel at its first launch, which may wait for all that runs on the GPU: a decode
// step would wait for its caller meanwhile, and the caller for the launch.
cudaError_t PreloadGatherHeads();
cudaError_t GatherHeads(const GatherHeadsArgs& args, const Launch& launch);

}  // namespace tributary::gpu
