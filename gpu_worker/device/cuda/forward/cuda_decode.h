// The decode half of the CUDA device: launches a step's graph and trades q for partials with it while it runs.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/forward/cuda_step_buffers.h"
#include "gpu_worker/device/cuda/forward/cuda_step_graph.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_matmul.h"
#include "gpu_worker/device/cuda/storage/cuda_resident.h"
#include "gpu_worker/device/cuda/storage/cuda_weights.h"
#include "gpu_worker/device/device.h"

namespace tributary {

// Functions as in device.h. Waits spin: nothing here sleeps. Thread-compatible.
class CudaDecode {
 public:
  // All outlive this.
  static absl::StatusOr<std::unique_ptr<CudaDecode>> Make(CudaContext* context, const CudaWeights* weights,
                                                          CudaResident* resident, const CudaDeviceSeats* seats);
  ~CudaDecode() { Stop(); }

  // Releases a step that still runs, and waits for it. Memory is freed only after that: freeing waits for the GPU.
  void Stop();

  // Device memory that Make() takes.
  static uint64_t DeviceBytes(const ModelConfig& config, const DeviceLimits& limits, bool deterministic);

  void BeginStep(std::span<const DecodeRow> rows);
  std::span<const float> AwaitQuery(uint32_t layer);
  PartialSlots& partial_slots() { return partial_slots_; }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots);
  ConstAttentionPartialView resident_partial(uint32_t row_idx) const;
  std::span<const float> EndStep();
  std::span<const DeviceSample> sampled() const { return samples_; }
  absl::Status step_status() const { return step_status_; }
  DeviceStepTimes step_times() const { return times_; }

 private:
  CudaDecode(CudaContext* context, const CudaWeights* weights, CudaResident* resident)
      : context_(context), weights_(weights), resident_(resident) {}
  // Fills in the step's rows; returns the graph that they need.
  StepGraphKey WriteRows(std::span<const DecodeRow> rows);
  // Spins until the GPU has rung the flag for this step. False if it never will.
  bool AwaitFlag(const StepFlag& flag);
  // Once the step has ended: a copy that waits for it would hold up all other copies to the host. False if it failed.
  bool CopyLogits();
  void TakeTimes();

  CudaContext* const context_;
  const CudaWeights* const weights_;
  CudaResident* const resident_;
  std::unique_ptr<CudaMatmul> matmul_;
  std::unique_ptr<StepBuffers> buffers_;
  std::unique_ptr<StepGraphs> graphs_;
  PartialSlots partial_slots_;

  uint32_t step_number_ = 0;
  size_t num_rows_ = 0;
  bool running_ = false;               // between BeginStep and EndStep, and the graph is on the GPU
  bool exchange_ = false;              // of the step that runs
  bool wants_logits_ = false;          // likewise
  std::vector<DeviceSample> samples_;  // of the last step
  absl::Status step_status_;
  DeviceStepTimes times_;
  std::vector<DeviceSpan> spans_;
};

}  // namespace tributary
