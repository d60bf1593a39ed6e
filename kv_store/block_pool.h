// Fixed-size extents carved from one region of memory that is given at start and never grows.
//
// An extent holds consecutive tokens of one (layer, KV head, K or V) stream of one shard, so that a
// kernel reads long contiguous runs (256 KiB and more keep reads at the memory roof;
// docs/numerics.md has no say in it, bandwidth has). Logical blocks lie inside extents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"

namespace tributary {

using ExtentId = uint32_t;

// Thread-compatible.
class BlockPool {
 public:
  // REQUIRES: extent_bytes is a power of two >= 4096; `region` is 64-byte aligned and outlives the
  // pool. A tail smaller than an extent is unused.
  BlockPool(std::span<std::byte> region, size_t extent_bytes);

  size_t extent_bytes() const { return extent_bytes_; }
  uint32_t num_extents() const { return num_extents_; }
  uint32_t num_free() const { return static_cast<uint32_t>(free_.size()); }
  uint64_t free_bytes() const { return uint64_t{num_free()} * extent_bytes_; }
  uint64_t capacity_bytes() const { return uint64_t{num_extents_} * extent_bytes_; }

  // All or nothing. RESOURCE_EXHAUSTED with the needed and the free bytes.
  absl::StatusOr<std::vector<ExtentId>> Acquire(uint32_t count);
  // REQUIRES: acquired and not yet released (checked).
  void Release(std::span<const ExtentId> extents);

  std::byte* data(ExtentId extent) { return region_.data() + size_t{extent} * extent_bytes_; }
  const std::byte* data(ExtentId extent) const {
    return region_.data() + size_t{extent} * extent_bytes_;
  }

 private:
  std::span<std::byte> region_;
  size_t extent_bytes_;
  uint32_t num_extents_;
  std::vector<ExtentId> free_;  // LIFO: recently used extents are warm
  std::vector<bool> acquired_;
};

}  // namespace tributary
