// Memory full of key and value streams in the stored layout, for benchmarks: far more than the caches hold, in huge
// pages where the kernel gives them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/kv_tile_layout.h"
#include "benchmarks/support/slice_pool.h"

namespace tributary {

std::string_view KvStorageName(KvStorage storage);
absl::StatusOr<KvStorage> ParseKvStorage(std::string_view name);  // as DType's names; "fp8" too

// Streams of `kv_len` tokens each in borrowed memory. Thread-compatible.
class KvRegion {
 public:
  // As many streams as fit into `memory`, a multiple of the pool's threads; those written by a thread are about those
  // that it will read. RESOURCE_EXHAUSTED if not even one per thread fits. Contents are random values; tiles repeat,
  // addresses do not. `is_filled`: the memory holds what the last call with this layout wrote.
  static absl::StatusOr<KvRegion> Create(SlicePool& pool, std::span<std::byte> memory, const KvTileLayout& layout,
                                         uint64_t kv_len, bool is_filled = false);

  const KvTileLayout& layout() const { return layout_; }
  uint64_t kv_len() const { return kv_len_; }
  size_t num_streams() const { return num_streams_; }
  size_t streams_per_thread() const { return num_streams_ / static_cast<size_t>(num_threads_); }
  uint64_t stream_bytes() const { return KvTilesFor(kv_len_) * layout_.record_bytes; }
  // Streams [thread * streams_per_thread(), ...) are the thread's.
  const std::byte* Stream(size_t idx) const {
    return memory_.data() + idx * stream_bytes() + idx / streams_per_thread() * stagger_bytes();
  }

 private:
  // Between the threads' parts: threads that read in step, at a distance of a power of two, would meet in the same sets
  // of the caches and banks of the memory.
  size_t stagger_bytes() const { return 3 * layout_.record_bytes; }

  KvTileLayout layout_;
  uint64_t kv_len_ = 0;
  size_t num_streams_ = 0;
  int num_threads_ = 1;
  std::span<std::byte> memory_;
};

// `num_tiles` tiles of random keys and values.
std::vector<std::byte> RandomTiles(const KvTileLayout& layout, uint32_t num_tiles, uint64_t seed);

}  // namespace tributary
