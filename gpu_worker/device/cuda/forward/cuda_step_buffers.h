// The memory that a decode step works in, on both sides of the bus.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/kernels/attend.h"
#include "gpu_worker/device/cuda/kernels/decode_rows.h"
#include "gpu_worker/device/cuda/kernels/sample.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"

namespace tributary {

// What a step starts from; the graph's first node copies it to the device.
struct alignas(256) StepHeader {
  uint32_t step_number = 0;  // what the flags are rung with; never 0, differs from step to step
};

// A flag of its own cache line, in pinned memory.
struct alignas(128) StepFlag {
  uint32_t value = 0;
};

// One that the host rings, with a word for the GPU (kernels/doorbell.h).
struct alignas(128) HostRungFlag {
  uint64_t value = 0;
};

// GPU clock (ns) of one layer, in pinned memory.
struct LayerStamps {
  uint64_t query_ns = 0;       // q was handed to the host
  uint64_t wait_begin_ns = 0;  // local attention was done
  uint64_t wait_end_ns = 0;    // the partials were there
};

// One arena on the device and one in pinned memory. Rows are padded to max_rows.
struct StepBuffers {
  static absl::StatusOr<std::unique_ptr<StepBuffers>> Make(const CudaContext& context);
  // Device memory that Make() takes.
  static uint64_t DeviceBytes(const ModelConfig& config, const DeviceLimits& limits, bool deterministic);

  gpu::KvGeometry geometry;
  gpu::SplitRule split_rule;
  uint32_t max_rows = 0;
  uint32_t num_layers = 0;
  uint32_t max_slots = 0;  // at least 1

  // Device.
  StepHeader* header = nullptr;
  gpu::DecodeRowDesc* rows = nullptr;  // [max_rows], right behind the header
  // The same rows as windowed layers attend: null if the model has none.
  gpu::DecodeRowDesc* windowed_rows = nullptr;
  uint32_t* arrivals = nullptr;  // [num_layers + 1]
  float* hidden = nullptr;       // [max_rows][hidden]: the residual stream
  void* normed = nullptr;        // [max_rows][max(hidden, q_dim)] of the compute dtype; attention's out, too
  float* qkv = nullptr;          // [max_rows][q_dim + 2 kv_dim]
  float* q = nullptr;            // [max_rows][q_dim]
  float* cos = nullptr;          // [rope base][max_rows][rotary_dim / 2]
  float* sin = nullptr;
  float* branch = nullptr;      // [max_rows][hidden]: what attention or MLP adds, where it is not added at once
  float* router = nullptr;      // [max_rows][num_experts]
  uint32_t* experts = nullptr;  // [max_rows][experts_per_token]
  float* expert_weights = nullptr;
  float* gated = nullptr;         // [max_rows][experts_per_token][intermediate of experts]
  float* gate_up = nullptr;       // [max_rows][2 intermediate]
  void* mlp = nullptr;            // [max_rows][intermediate] of the compute dtype
  float* logits = nullptr;        // [max_rows][vocab]
  uint64_t* go = nullptr;         // [num_layers]: of FetchPartials
  uint32_t* num_slots = nullptr;  // [max_rows]
  float* slot_out = nullptr;      // [max_rows][max_slots][q_dim]
  float* slot_lse_ln = nullptr;   // [max_rows][max_slots][num_q_heads]
  gpu::AttendWorkspace attend;

  // Pinned.
  StepHeader* host_header = nullptr;
  gpu::DecodeRowDesc* host_rows = nullptr;  // right behind host_header
  gpu::DecodeRowDesc* host_windowed_rows = nullptr;
  float* host_q = nullptr;                    // [max_rows][q_dim]
  float* host_logits = nullptr;               // [max_rows][vocab]
  gpu::SampleRowDesc* sample_rows = nullptr;  // [max_rows]
  gpu::SampleResult* samples = nullptr;       // [max_rows]
  uint32_t* host_num_slots = nullptr;         // as their namesakes above
  float* host_slot_out = nullptr;
  float* host_slot_lse_ln = nullptr;
  float* host_resident_out = nullptr;     // [max_rows][q_dim]: of the layer last merged, of rows that want it
  float* host_resident_lse_ln = nullptr;  // [max_rows][num_q_heads], likewise
  StepFlag* query_flags = nullptr;        // [num_layers]; GPU to host
  HostRungFlag* partial_flags = nullptr;  // [num_layers]; host to GPU
  StepFlag* started_flag = nullptr;       // GPU to host: the step has begun
  StepFlag* done_flag = nullptr;          // GPU to host: the step is over
  StepFlag* error = nullptr;              // not 0: the GPU gave up waiting
  LayerStamps* stamps = nullptr;          // [num_layers]
  uint64_t* step_stamps = nullptr;        // [2]: begin and end of the step, GPU clock

  DeviceBuffer device_memory;
  PinnedBuffer pinned_memory;
};

// Rows that a batch is padded to: a graph for each.
uint32_t RowBucket(uint32_t num_rows, bool deterministic);

}  // namespace tributary
