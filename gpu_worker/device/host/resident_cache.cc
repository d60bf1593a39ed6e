#include "gpu_worker/device/host/resident_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status.h"

namespace tributary {

ResidentCache::ResidentCache(const AttentionShape& shape, LayerMap layers, uint64_t pool_bytes, FacetModel model)
    : shape_(shape),
      layers_(std::move(layers)),
      model_(std::move(model)),
      regions_(shape, layers_.num_layers(), pool_bytes),
      pool_(pool_bytes) {}

absl::StatusOr<ResidentId> ResidentCache::Reserve(const ResidentSpec& spec) {
  TRIBUTARY_ASSIGN_OR_RETURN(const HostFacetPlan plan,
                             HostFacetPlan::Make(spec, shape_, layers_.num_shard_layers(), &model_));
  TRIBUTARY_ASSIGN_OR_RETURN(const ResidentId id, regions_.Reserve(spec.capacity_tokens, spec.kv_dtype, plan.parts()));
  std::vector<std::span<std::byte>> parts;
  for (const ResidentRegions::Part& part : regions_.parts(id))
    parts.push_back({pool_.data() + part.offset, part.bytes});
  const auto read_kv = [this, id](uint32_t shard_layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                                  std::span<std::byte> v) {
    const uint32_t layer = layers_.model_layer(shard_layer);
    Read(id, layer, Kind::kKey, slots, heads, k);
    Read(id, layer, Kind::kValue, slots, heads, v);
  };
  if (facets_.size() <= id.value) facets_.resize(id.value + 1);
  absl::StatusOr<std::unique_ptr<HostFacet>> facet = plan.MakeFacet({parts, read_kv});
  if (!facet.ok()) {
    regions_.Release(id);
    return facet.status();
  }
  facets_[id.value] = *std::move(facet);
  return id;
}

void ResidentCache::Release(ResidentId id) {
  regions_.Release(id);
  facets_[id.value] = nullptr;
}

template <typename Copy>
void ResidentCache::ForEachVector(ResidentId id, uint32_t layer, Kind kind, SlotRange slots, HeadRange heads,
                                  size_t canonical_bytes, const Copy& copy) {
  const size_t vector_bytes = shape_.head_dim * DTypeBytes(dtype(id));
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(slots.end, capacity_tokens(id));
  TRIBUTARY_CHECK_LE(heads.begin, heads.end);
  TRIBUTARY_CHECK_LE(heads.end, shape_.num_kv_heads);
  const size_t num_heads = heads.end - heads.begin;
  TRIBUTARY_CHECK_EQ(canonical_bytes, (slots.end - slots.begin) * num_heads * vector_bytes);
  for (uint32_t kv_head = heads.begin; kv_head < heads.end; ++kv_head) {
    std::byte* head = Slots(id, layer, kind, kv_head);
    for (uint32_t slot = slots.begin; slot < slots.end; ++slot) {
      const size_t token_idx = slot - slots.begin;
      copy(head + slot * vector_bytes, (token_idx * num_heads + kv_head - heads.begin) * vector_bytes, vector_bytes);
    }
  }
}

void ResidentCache::Write(ResidentId id, uint32_t layer, Kind kind, SlotRange slots,
                          std::span<const std::byte> canonical) {
  ForEachVector(
      id, layer, kind, slots, {0, shape_.num_kv_heads}, canonical.size(),
      [&](std::byte* stored, size_t offset, size_t bytes) { std::memcpy(stored, canonical.data() + offset, bytes); });
}

void ResidentCache::Read(ResidentId id, uint32_t layer, Kind kind, SlotRange slots, HeadRange heads,
                         std::span<std::byte> canonical) {
  ForEachVector(id, layer, kind, slots, heads, canonical.size(),
                [&](const std::byte* stored, size_t offset, size_t bytes) {
                  std::memcpy(canonical.data() + offset, stored, bytes);
                });
}

}  // namespace tributary
