// The resident KV of all sequences in device memory, carved from one pool that is reserved at start.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/cuda_context.h"
#include "gpu_worker/device/cuda/cuda_memory.h"
#include "gpu_worker/device/resident_regions.h"

namespace tributary {

// Layout: ResidentRegions. Thread-compatible.
class CudaResident {
 public:
  static absl::StatusOr<std::unique_ptr<CudaResident>> Make(CudaContext* context);

  ResidentRegions& regions() { return regions_; }
  const ResidentRegions& regions() const { return regions_; }

  // Device address of slot 0 of one KV head: [capacity_tokens][head_dim]. The heads follow each other.
  std::byte* Slots(ResidentId id, uint32_t layer, ResidentRegions::Kind kind, uint32_t kv_head = 0) const {
    return pool_.data() + regions_.SlotsOffset(id, layer, kind, kv_head);
  }
  // Likewise of a MAW, and of its scratch for scores. REQUIRES: the region has one.
  float* Maw(ResidentId id, uint32_t layer) const {
    return reinterpret_cast<float*>(pool_.data() + regions_.MawOffset(id, layer, 0));
  }
  float* Scores(ResidentId id) const { return reinterpret_cast<float*>(pool_.data() + regions_.ScoresOffset(id)); }
  // These slots hold new tokens from here on in `stream`: their averages start anew. Nothing without a MAW.
  void ForgetMaw(ResidentId id, uint32_t layer, SlotRange slots, cudaStream_t stream);
  // Device::ReadMaw.
  void ReadMaw(ResidentId id, SlotRange slots, std::span<float> maw);

 private:
  explicit CudaResident(CudaContext* context)
      : context_(context),
        regions_(context->config.attention, context->config.num_layers, context->limits.resident_pool_bytes) {}

  CudaContext* const context_;
  ResidentRegions regions_;
  DeviceBuffer pool_;
};

}  // namespace tributary
