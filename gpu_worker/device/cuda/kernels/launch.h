// How the kernels of this folder are launched. A kernel takes pointers to device memory (or to pinned host memory that
// the GPU sees) in a plain struct, checks the struct's sizes, launches, and returns the launch's error:
// cudaErrorInvalidValue for sizes it does not serve. Nothing allocates or synchronises; all may be captured into a
// graph. Thread-safe.
#pragma once

#include "cuda_runtime_api.h"

namespace tributary::gpu {

struct Launch {
  cudaStream_t stream = nullptr;
  // Programmatic dependent launch (sm_90 and up; must be false below): the kernel's blocks may start while the previous
  // kernel of the stream drains. Each kernel here waits for the previous one before it touches memory, so results are
  // the same and the launch's latency is hidden. Excepted are weights and DecodeRowDesc, which are read at once: they
  // must be complete before the first kernel of a chain of overlapping ones starts.
  bool overlap = false;
};

}  // namespace tributary::gpu
