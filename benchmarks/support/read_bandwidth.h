// The machine's read bandwidth, to divide by: threads that each sum memory of their own, far more than the caches hold.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "benchmarks/support/slice_pool.h"
#include "kv_store/arena.h"

namespace tributary {

// Reads [memory, memory + bytes) with the widest loads of this CPU; returns a sum, which keeps the reads.
// REQUIRES: memory aligned to 64, bytes a multiple of 512.
uint64_t SumBytes(const std::byte* memory, size_t bytes);

// A region that nobody else reads (what a ceiling slice leaves in the caches must serve no kernel), in huge pages where
// the kernel gives them; each slice reads the next piece of it. Thread-compatible.
class ReadCeiling {
 public:
  // RESOURCE_EXHAUSTED as of Arena. Every thread owns region_bytes / num_threads.
  static absl::StatusOr<ReadCeiling> Create(SlicePool* pool, size_t region_bytes);
  // Over borrowed memory, which is written to.
  ReadCeiling(SlicePool* pool, std::span<std::byte> region);

  // One slice of about `bytes_per_thread`; bytes_read gets what it really read, all threads together.
  SliceTime RunSlice(size_t bytes_per_thread, uint64_t* bytes_read);

  // Rounds of about a millisecond; the median in 10^9 bytes per second.
  double MeasureGbPerS(int rounds);

 private:
  SlicePool* pool_;
  std::optional<Arena> arena_;  // if it owns the region
  std::span<std::byte> region_;
  size_t part_bytes_ = 0;    // of one thread
  size_t offset_bytes_ = 0;  // of the next piece, in each part
  std::vector<uint64_t> sums_;
};

// Of 2 x num_threads x 128 MiB, in slices, all cores of this process's mask available. Takes about a second. 0 if the
// memory is not to be had.
double MeasureReadBandwidthGbPerS(int num_threads);

}  // namespace tributary
