// The resident KV of all sequences and their facets in device memory, carved from one pool that is reserved at start.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/cuda/policy/cuda_facet.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/cuda/runtime/cuda_memory.h"
#include "gpu_worker/device/resident_regions.h"

namespace tributary {

// Layout: ResidentRegions. Thread-compatible.
class CudaResident {
 public:
  // Both outlive this.
  static absl::StatusOr<std::unique_ptr<CudaResident>> Make(CudaContext* context, const CudaDeviceSeats* seats);

  // Errors as Device::ReserveResident.
  absl::StatusOr<ResidentId> Reserve(const ResidentSpec& spec);
  void Release(ResidentId id);
  const ResidentRegions& regions() const { return regions_; }

  // Device address of slot 0 of one KV head: [capacity_tokens][head_dim]. The heads follow each other.
  std::byte* Slots(ResidentId id, uint32_t layer, ResidentRegions::Kind kind, uint32_t kv_head = 0) const {
    return pool_.data() + regions_.SlotsOffset(id, layer, kind, kv_head);
  }
  // Null: the sequence has none. facet_kind() is its seat's, then; else 0.
  CudaFacet* facet(ResidentId id) const { return id.value < facets_.size() ? facets_[id.value].facet.get() : nullptr; }
  uint32_t facet_kind(ResidentId id) const { return facets_[id.value].kind; }

 private:
  CudaResident(CudaContext* context, const CudaDeviceSeats* seats)
      : context_(context),
        seats_(seats),
        regions_(context->config.attention, context->config.num_layers, context->limits.resident_pool_bytes) {}

  struct Facet {
    uint32_t kind = 0;
    std::unique_ptr<CudaFacet> facet;
  };

  CudaContext* const context_;
  const CudaDeviceSeats* const seats_;
  ResidentRegions regions_;
  DeviceBuffer pool_;
  std::vector<Facet> facets_;  // by id
};

}  // namespace tributary
