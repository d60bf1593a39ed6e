// The resident KV of all sequences, carved from one pool that is reserved at start.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "gpu_worker/device/device.h"

namespace tributary {

// A region holds, for each layer, K and V, and KV head, [capacity_tokens][head_dim] of the KV
// dtype. Thread-compatible.
class ResidentCache {
 public:
  // Throws std::bad_alloc.
  ResidentCache(const AttentionShape& shape, uint32_t num_layers, uint64_t pool_bytes);

  absl::StatusOr<ResidentId> Reserve(uint32_t capacity_tokens, DType kv_dtype);
  void Release(ResidentId id);
  DeviceMemory memory() const { return {pool_.size(), used_bytes_}; }

  DType dtype(ResidentId id) const { return region(id).dtype; }
  uint32_t capacity_tokens(ResidentId id) const { return region(id).capacity_tokens; }

  enum class Kind { kKey = 0, kValue = 1 };
  // Slot 0 of one KV head: [capacity_tokens][head_dim].
  std::byte* Slots(ResidentId id, uint32_t layer, Kind kind, uint32_t kv_head);

  // Between slots and the canonical layout [token][kv_head][head_dim].
  void Write(ResidentId id, uint32_t layer, Kind kind, SlotRange slots,
             std::span<const std::byte> canonical);
  void Read(ResidentId id, uint32_t layer, Kind kind, SlotRange slots,
            std::span<std::byte> canonical);

 private:
  struct Region {
    uint64_t offset = 0;
    uint64_t bytes = 0;  // 0: a free entry
    uint32_t capacity_tokens = 0;
    DType dtype = DType::kUnset;
  };
  const Region& region(ResidentId id) const;
  // Calls copy(pool bytes, canonical offset) for every (token, KV head) vector of the slots.
  template <typename Copy>
  void ForEachVector(ResidentId id, uint32_t layer, Kind kind, SlotRange slots,
                     size_t canonical_bytes, const Copy& copy);

  const AttentionShape shape_;
  const uint32_t num_layers_;
  AlignedBuffer<std::byte> pool_;
  std::map<uint64_t, uint64_t> free_;  // offset -> bytes; neighbours are joined
  std::vector<Region> regions_;        // by id
  uint64_t used_bytes_ = 0;
};

}  // namespace tributary
