// Buffers of any size from one region of memory that is given at start and never grows.
//
// The region is cut into pages of 4 KiB; a buffer is a run of pages. Freed runs of up to 16 pages
// wait, unmerged, in a stack per size, so that a steady exchange of equal frames costs a pop and a
// push and reuses warm memory. Other free runs are merged with their free neighbours and kept in
// bins by power of two. When no run is long enough, the stacks are merged back and the search
// starts again.
//
// Thread-compatible.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tributary {

class FramePool {
 public:
  static constexpr size_t kPageBytes = 4096;

  // REQUIRES: `region` starts at a multiple of 64 and outlives the pool. A tail smaller than a page
  // is unused.
  explicit FramePool(std::span<std::byte> region);

  // Returns a run of at least `bytes`, aligned as the region's start; null when there is no free run of that length.
  // REQUIRES: bytes > 0.
  std::byte* Allocate(size_t bytes);
  // REQUIRES: allocated here and not yet freed (checked).
  void Free(std::byte* buffer);

  size_t capacity_bytes() const { return pages_.size() * kPageBytes; }
  size_t used_bytes() const { return used_pages_ * kPageBytes; }
  size_t num_buffers() const { return num_buffers_; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint32_t kQuickPages = 16;
  static constexpr size_t kNumBins = 32;

  enum class State : uint8_t { kInside, kUsed, kFree, kQuick };

  // Describes a run by its first page; its last page repeats num_pages while the run is free, so that its right
  // neighbour finds it.
  struct Page {
    uint32_t num_pages = 0;
    uint32_t next = kNone;
    uint32_t prev = kNone;
    State state = State::kInside;
    State end_state = State::kInside;  // of the run whose last page this is
  };

  static size_t BinOf(uint32_t num_pages);
  void Link(uint32_t first);
  void Unlink(uint32_t first);
  void MakeFree(uint32_t first, uint32_t num_pages);  // merges and links
  uint32_t TakeFree(uint32_t num_pages);              // kNone if there is none
  void MergeQuickRuns();

  std::byte* base_;
  std::vector<Page> pages_;
  std::array<uint32_t, kNumBins> bins_;
  std::array<uint32_t, kQuickPages + 1> quick_;  // stacks, by number of pages
  size_t used_pages_ = 0;
  size_t num_buffers_ = 0;
};

}  // namespace tributary
