// Makes tokens out of logits, as gpu_worker/sequence/sampler.h does: the same cuts in the same order, ties to the lower
// token id, and the same random number for the same (seed, position). Weights are fixed-point numbers (40 fraction
// bits), so their sums do not depend on order: the result is deterministic, and differs from the host's only where a
// sum of probabilities lies within some 1e-7 of a bound.
#pragma once

#include <cstdint>

#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

struct SampleRowDesc {
  uint64_t seed = 0;
  uint64_t position = 0;
  float temperature = 0;  // 0 = greedy
  float top_p = 0;        // 0 or 1 = off
  uint32_t top_k = 0;     // 0 = off
};

struct SampleResult {
  uint32_t token = 0;
  double logprob = 0;  // natural log, temperature 1, no cuts; NaN if the logits are not finite
};

struct SampleArgs {
  const float* logits = nullptr;        // [num_rows][vocab_size]
  const SampleRowDesc* rows = nullptr;  // [num_rows], device or pinned memory
  SampleResult* results = nullptr;      // [num_rows], device or pinned memory
  uint32_t num_rows = 0;
  uint32_t vocab_size = 0;
};
cudaError_t Sample(const SampleArgs& args, const Launch& launch);

}  // namespace tributary::gpu
