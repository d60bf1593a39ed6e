// Which bytes of a device's resident pool hold whose KV: pure bookkeeping, the same on every device.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/device.h"

namespace tributary {

// A region holds, for each layer, K and V, and KV head, [capacity_tokens][head_dim] of the KV dtype; the parts of a
// facet follow, each aligned to 64 bytes. Thread-compatible.
class ResidentRegions {
 public:
  ResidentRegions(const AttentionShape& shape, uint32_t num_layers, uint64_t pool_bytes);

  // Errors as Device::ReserveResident.
  absl::StatusOr<ResidentId> Reserve(uint32_t capacity_tokens, DType kv_dtype, std::span<const PolicyBytes> parts = {});
  void Release(ResidentId id);
  DeviceMemory memory() const { return {pool_bytes_, used_bytes_, policy_bytes_}; }

  DType dtype(ResidentId id) const { return region(id).dtype; }
  uint32_t capacity_tokens(ResidentId id) const { return region(id).capacity_tokens; }

  enum class Kind { kKey = 0, kValue = 1 };
  // Offset in the pool of slot 0 of one KV head: [capacity_tokens][head_dim]. The heads follow each other.
  uint64_t SlotsOffset(ResidentId id, uint32_t layer, Kind kind, uint32_t kv_head) const;

  // What the region was reserved with, in that order; `offset` in the pool.
  struct Part {
    const char* kind = "";
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  std::span<const Part> parts(ResidentId id) const { return region(id).parts; }

 private:
  struct Region {
    uint64_t offset = 0;
    uint64_t bytes = 0;  // 0: a free entry
    uint32_t capacity_tokens = 0;
    DType dtype = DType::kUnset;
    std::vector<Part> parts;
  };
  const Region& region(ResidentId id) const;
  // Adds the parts' bytes to policy_bytes_, or takes them away.
  void Account(std::span<const Part> parts, bool reserved);

  const AttentionShape shape_;
  const uint32_t num_layers_;
  const uint64_t pool_bytes_;
  std::map<uint64_t, uint64_t> free_;  // offset -> bytes; neighbours are joined
  std::vector<Region> regions_;        // by id
  uint64_t used_bytes_ = 0;
  std::vector<PolicyBytes> policy_bytes_;
};

}  // namespace tributary
