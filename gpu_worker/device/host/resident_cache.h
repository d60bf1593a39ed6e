// The resident KV of all sequences and their facets, carved from one pool that is reserved at start.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/host/policy/host_facet.h"
#include "gpu_worker/device/layer_map.h"
#include "gpu_worker/device/resident_regions.h"

namespace tributary {

// Layout: ResidentRegions. Thread-compatible.
class ResidentCache {
 public:
  // Throws std::bad_alloc.
  ResidentCache(const AttentionShape& shape, uint32_t num_layers, uint64_t pool_bytes, FacetModel model = {})
      : ResidentCache(shape, LayerMap(num_layers, {}), pool_bytes, std::move(model)) {}
  ResidentCache(const AttentionShape& shape, LayerMap layers, uint64_t pool_bytes, FacetModel model);

  // Errors as Device::ReserveResident.
  absl::StatusOr<ResidentId> Reserve(const ResidentSpec& spec);
  void Release(ResidentId id);
  DeviceMemory memory() const { return regions_.memory(); }

  DType dtype(ResidentId id) const { return regions_.dtype(id); }
  uint32_t capacity_tokens(ResidentId id) const { return regions_.capacity_tokens(id); }

  using Kind = ResidentRegions::Kind;
  // Slot 0 of one KV head: [capacity_tokens][head_dim].
  std::byte* Slots(ResidentId id, uint32_t layer, Kind kind, uint32_t kv_head) {
    return pool_.data() + regions_.SlotsOffset(id, layer, kind, kv_head);
  }

  // Between slots and the canonical layout [token][kv_head][head_dim].
  void Write(ResidentId id, uint32_t layer, Kind kind, SlotRange slots, std::span<const std::byte> canonical);
  // Reads the rows of some heads: [token][heads][head_dim].
  void Read(ResidentId id, uint32_t layer, Kind kind, SlotRange slots, HeadRange heads, std::span<std::byte> canonical);

  // Null: the sequence has none.
  HostFacet* facet(ResidentId id) const { return id.value < facets_.size() ? facets_[id.value].get() : nullptr; }

 private:
  // Calls copy(pool bytes, canonical offset) for every (token, KV head) vector of the slots and heads.
  template <typename Copy>
  void ForEachVector(ResidentId id, uint32_t layer, Kind kind, SlotRange slots, HeadRange heads, size_t canonical_bytes,
                     const Copy& copy);

  const AttentionShape shape_;
  const LayerMap layers_;
  const FacetModel model_;
  ResidentRegions regions_;
  AlignedBuffer<std::byte> pool_;
  std::vector<std::unique_ptr<HostFacet>> facets_;  // by id
};

}  // namespace tributary
