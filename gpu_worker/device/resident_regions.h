// Which bytes of a device's resident pool hold whose KV: pure bookkeeping, the same on every device.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/device.h"

namespace tributary {

// A region holds, for each layer, K and V, and KV head, [capacity_tokens][head_dim] of the KV dtype. With a MAW, f32
// follow: the MAW, [layer][kv_head][capacity_tokens], and a scratch of one layer's scores, [q_head][capacity_tokens].
// Thread-compatible.
class ResidentRegions {
 public:
  ResidentRegions(const AttentionShape& shape, uint32_t num_layers, uint64_t pool_bytes);

  // Errors as Device::ReserveResident. `maw`: with one.
  absl::StatusOr<ResidentId> Reserve(uint32_t capacity_tokens, DType kv_dtype,
                                     const std::optional<MawParams>& maw = std::nullopt);
  void Release(ResidentId id);
  DeviceMemory memory() const { return {pool_bytes_, used_bytes_}; }

  DType dtype(ResidentId id) const { return region(id).dtype; }
  uint32_t capacity_tokens(ResidentId id) const { return region(id).capacity_tokens; }

  enum class Kind { kKey = 0, kValue = 1 };
  // Offset in the pool of slot 0 of one KV head: [capacity_tokens][head_dim]. The heads follow each other.
  uint64_t SlotsOffset(ResidentId id, uint32_t layer, Kind kind, uint32_t kv_head) const;

  // Nullopt: the region has no MAW.
  const std::optional<MawParams>& maw(ResidentId id) const { return region(id).maw; }
  // Offset in the pool of slot 0, f32. REQUIRES (checked): maw(id).
  uint64_t MawOffset(ResidentId id, uint32_t layer, uint32_t kv_head) const;
  uint64_t ScoresOffset(ResidentId id) const;

 private:
  struct Region {
    uint64_t offset = 0;
    uint64_t bytes = 0;  // 0: a free entry
    uint32_t capacity_tokens = 0;
    DType dtype = DType::kUnset;
    std::optional<MawParams> maw;
    uint64_t kv_bytes = 0;
  };
  const Region& region(ResidentId id) const;

  const AttentionShape shape_;
  const uint32_t num_layers_;
  const uint64_t pool_bytes_;
  std::map<uint64_t, uint64_t> free_;  // offset -> bytes; neighbours are joined
  std::vector<Region> regions_;        // by id
  uint64_t used_bytes_ = 0;
};

}  // namespace tributary
