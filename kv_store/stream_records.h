// Fixed-size records beside a shard's K and V, as many for each (layer, KV head) stream: summaries of blocks, codes of
// keys, whatever a policy wants to read in their place. Memory comes from the pool of the shards and is reserved at
// Open(). A record never straddles extents; the records of a stream lie one behind the other but for the ends of
// extents.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kv_store/block_pool.h"

namespace tributary {

struct StreamRecordsOptions {
  uint64_t num_streams = 0;
  uint64_t records_per_stream = 0;
  uint32_t record_bytes = 0;  // a multiple of 64
};

// Move-only. Thread-compatible; reads are safe while nobody writes. The pool outlives it.
class StreamRecords {
 public:
  // INVALID_ARGUMENT: a size of 0, or a record larger than an extent. RESOURCE_EXHAUSTED: needed and free bytes.
  static absl::StatusOr<StreamRecords> Open(const StreamRecordsOptions& options, BlockPool* pool);
  // Bytes that Open would reserve from a pool with such extents. INVALID_ARGUMENT as of Open.
  static absl::StatusOr<uint64_t> ReservedBytes(const StreamRecordsOptions& options, size_t extent_bytes);
  ~StreamRecords();  // gives the extents back
  StreamRecords(StreamRecords&& other) noexcept;
  StreamRecords& operator=(StreamRecords&& other) = delete;

  uint64_t reserved_bytes() const { return extents_.size() * pool_->extent_bytes(); }
  uint64_t records_per_stream() const { return options_.records_per_stream; }

  // Aligned to 64. What was never written is undefined. REQUIRES: a stream and a record that there are.
  std::byte* At(uint64_t stream, uint64_t record) {
    const uint64_t index = stream * options_.records_per_stream + record;
    return pool_->data(extents_[index / per_extent_]) + index % per_extent_ * options_.record_bytes;
  }
  const std::byte* At(uint64_t stream, uint64_t record) const {
    return const_cast<StreamRecords*>(this)->At(stream, record);
  }
  // How many records lie one behind the other from this one on, of those of its stream below `end`.
  uint64_t RunLength(uint64_t stream, uint64_t record, uint64_t end) const;

 private:
  StreamRecords(const StreamRecordsOptions& options, BlockPool* pool, std::vector<ExtentId> extents);

  StreamRecordsOptions options_;
  BlockPool* pool_;
  uint64_t per_extent_;  // records
  std::vector<ExtentId> extents_;
};

}  // namespace tributary
