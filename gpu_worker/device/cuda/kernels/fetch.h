// Remote partials from the host's memory into the GPU's, once the host has rung: many blocks that read one word of host
// memory are served one after the other (some 0.4 us each on an H100), so a single thread polls, and what follows is
// wide.
#pragma once

#include <cstdint>

#include "gpu_worker/device/cuda/kernels/decode_rows.h"
#include "gpu_worker/device/cuda/kernels/doorbell.h"
#include "gpu_worker/device/cuda/kernels/launch.h"

namespace tributary::gpu {

// The word of HostFlag() for FetchPartials: the first `num_rows` rows have `num_slots` slots each, and all others none.
inline constexpr uint32_t EvenSlots(uint32_t num_rows, uint32_t num_slots) { return num_rows << 16 | num_slots; }
inline constexpr uint32_t kUnevenSlots = ~0u;  // it is host_num_slots that says so

// Waits, then copies of each row the partials of its slots. All arrays are aligned to 16 bytes; the host's are pinned.
struct FetchArgs {
  Await await;  // its word is EvenSlots() or kUnevenSlots
  // Device memory of this launch's own, no HostFlag of *await.value before it.
  uint64_t* go = nullptr;
  uint32_t num_rows = 0;  // at most kMaxDecodeRows
  uint32_t max_slots = 0;
  KvGeometry geometry;
  const uint32_t* host_num_slots = nullptr;  // [num_rows]
  const float* host_out = nullptr;           // [num_rows][max_slots][num_q_heads][head_dim]
  const float* host_lse_ln = nullptr;        // [num_rows][max_slots][num_q_heads]
  uint32_t* num_slots = nullptr;             // device memory, as are `out` and `lse_ln`; at most max_slots
  float* out = nullptr;
  float* lse_ln = nullptr;
  // What is read after the partials, 16-byte aligned, or null: it comes into the L2 cache while the host works, as far
  // as time allows. Hopper and later; others ignore it.
  const void* next = nullptr;
  uint64_t next_bytes = 0;
};
cudaError_t FetchPartials(const FetchArgs& args, const Launch& launch);

}  // namespace tributary::gpu
