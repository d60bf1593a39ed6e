// Fixed-size extents carved from one region of memory that is given at start and never grows.
//
// An extent holds consecutive tokens of one (layer, KV head) stream of one shard. Extents of a
// stream are neighbours in memory wherever the pool has room for that: a kernel that reads a
// megabyte or more in one go reads at the memory roof, one that jumps every 64 KiB at two thirds
// of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tributary {

using ExtentId = uint32_t;  // neighbours in memory have neighbouring ids

// Thread-safe. The memory of an extent is its owner's alone.
class BlockPool {
 public:
  // REQUIRES: extent_bytes is a power of two >= 4096; `region` is 64-byte aligned and outlives the
  // pool. A tail smaller than an extent is unused.
  BlockPool(std::span<std::byte> region, size_t extent_bytes);

  size_t extent_bytes() const { return extent_bytes_; }
  uint32_t num_extents() const { return num_extents_; }
  uint32_t num_free() const;
  uint64_t free_bytes() const { return uint64_t{num_free()} * extent_bytes_; }
  uint64_t capacity_bytes() const { return uint64_t{num_extents_} * extent_bytes_; }
  // The longest run of neighbouring free extents.
  uint32_t largest_free_run() const;

  // Pieces of `extents_per_piece` extents, one after the other; all or nothing. Best effort for
  // contiguity: all pieces in the smallest gap that holds them; else each piece in one gap, from the
  // largest gaps; else pieces in fragments, as few as there can be. RESOURCE_EXHAUSTED with the
  // needed and the free bytes: fragmentation alone never refuses.
  absl::StatusOr<std::vector<ExtentId>> Acquire(uint32_t num_pieces, uint32_t extents_per_piece = 1);
  // REQUIRES: acquired and not yet released (checked).
  void Release(std::span<const ExtentId> extents);

  std::byte* data(ExtentId extent) { return region_.data() + size_t{extent} * extent_bytes_; }
  const std::byte* data(ExtentId extent) const { return region_.data() + size_t{extent} * extent_bytes_; }

 private:
  void AddGap(ExtentId begin, uint32_t count);
  void RemoveGap(ExtentId begin, uint32_t count);
  void Free(ExtentId begin, uint32_t count);
  std::pair<uint32_t, ExtentId> ChooseGap(uint32_t wanted, uint32_t extents_per_piece) const;

  std::span<std::byte> region_;
  size_t extent_bytes_;
  uint32_t num_extents_;
  mutable std::mutex mutex_;  // guards all below
  uint32_t num_free_ = 0;
  // Maximal runs of free extents, by place and by size.
  std::map<ExtentId, uint32_t> gaps_;
  std::set<std::pair<uint32_t, ExtentId>> gaps_by_size_;
  std::vector<bool> acquired_;
};

}  // namespace tributary
