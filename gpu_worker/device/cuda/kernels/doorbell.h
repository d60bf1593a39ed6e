// GPU and host tell each other that something is ready, inside a running graph, by flags in pinned host memory. A flag
// holds the number of the step it was last rung for, so nobody has to reset it; numbers differ from step to step.
#pragma once

#include <cstdint>

#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

// GPU to host. The last block of a kernel to finish stores *value with release semantics at system scope: a host thread
// that reads it with acquire sees all that the kernel wrote.
struct Ring {
  uint32_t* flag = nullptr;         // pinned host memory; null: nothing is rung
  const uint32_t* value = nullptr;  // device memory: this step's number
  uint32_t* arrivals = nullptr;     // device memory, 0 before and after; not shared by kernels that may run at once
  uint64_t* rung_ns = nullptr;      // pinned host memory or null: when it was rung, by the GPU's clock
};

// What the host stores at once: the number of the step, and a word for who waits, which saves it a trip over the bus.
inline constexpr uint64_t HostFlag(uint32_t step_number, uint32_t word = 0) {
  return uint64_t{word} << 32 | step_number;
}

// Host to GPU. Waits until *flag == HostFlag(*value, ..), *error != 0 or timeout_ns has passed; in the last case
// *error becomes `error_code`. After an error all later waits fall through, so a graph always ends; its results are
// then worthless, and whoever owns the graph looks at *error before it uses them. The host may set *error itself to
// release the GPU.
struct Await {
  const uint64_t* flag = nullptr;   // pinned host memory; null: nothing is awaited
  const uint32_t* value = nullptr;  // device memory
  uint32_t* error = nullptr;        // pinned host memory
  uint32_t error_code = 1;
  uint64_t timeout_ns = 0;
  // Pinned host memory or null: when the first block began and ended its wait, by the GPU's clock.
  uint64_t* begin_ns = nullptr;
  uint64_t* end_ns = nullptr;
};

// Kernels of their own; most kernels that ring or wait do it themselves (FinishQkv, FetchPartials).
cudaError_t RingFlag(const Ring& ring, const Launch& launch);
cudaError_t AwaitFlag(const Await& await, const Launch& launch);

}  // namespace tributary::gpu
