// The resident KV of all sequences, carved from one pool that is reserved at start.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/resident_regions.h"

namespace tributary {

// Layout: ResidentRegions. Thread-compatible.
class ResidentCache {
 public:
  // Throws std::bad_alloc.
  ResidentCache(const AttentionShape& shape, uint32_t num_layers, uint64_t pool_bytes);

  absl::StatusOr<ResidentId> Reserve(uint32_t capacity_tokens, DType kv_dtype,
                                     const std::optional<MawParams>& maw = std::nullopt) {
    return regions_.Reserve(capacity_tokens, kv_dtype, maw);
  }
  void Release(ResidentId id) { regions_.Release(id); }
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
  // Of some heads: [token][heads][head_dim].
  void Read(ResidentId id, uint32_t layer, Kind kind, SlotRange slots, HeadRange heads, std::span<std::byte> canonical);

  const std::optional<MawParams>& maw(ResidentId id) const { return regions_.maw(id); }
  // Of one KV head, [capacity_tokens]. REQUIRES: maw(id).
  std::span<float> Maw(ResidentId id, uint32_t layer, uint32_t kv_head) {
    return {reinterpret_cast<float*>(pool_.data() + regions_.MawOffset(id, layer, kv_head)), capacity_tokens(id)};
  }
  // These slots hold new tokens: their averages start anew. Nothing without a MAW.
  void ForgetMaw(ResidentId id, uint32_t layer, SlotRange slots);
  // Device::ReadMaw.
  void ReadMaw(ResidentId id, SlotRange slots, std::span<float> maw);

 private:
  // Calls copy(pool bytes, canonical offset) for every (token, KV head) vector of the slots and heads.
  template <typename Copy>
  void ForEachVector(ResidentId id, uint32_t layer, Kind kind, SlotRange slots, HeadRange heads, size_t canonical_bytes,
                     const Copy& copy);

  const AttentionShape shape_;
  const uint32_t num_layers_;
  ResidentRegions regions_;
  AlignedBuffer<std::byte> pool_;
};

}  // namespace tributary
