#include "kv_store/stream_records.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

absl::StatusOr<uint64_t> NumExtents(const StreamRecordsOptions& options, size_t extent_bytes) {
  if (options.num_streams == 0 || options.records_per_stream == 0 || options.record_bytes == 0) {
    return absl::InvalidArgumentError(fmt::format("records of {} bytes, {} for each of {} streams; none may be 0",
                                                  options.record_bytes, options.records_per_stream,
                                                  options.num_streams));
  }
  if (options.record_bytes > extent_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("records of {} bytes are larger than an extent of {}; use larger extents (--extent-bytes)",
                    options.record_bytes, extent_bytes));
  }
  const uint64_t per_extent = extent_bytes / options.record_bytes;
  return (options.num_streams * options.records_per_stream + per_extent - 1) / per_extent;
}

}  // namespace

absl::StatusOr<uint64_t> StreamRecords::ReservedBytes(const StreamRecordsOptions& options, size_t extent_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t num_extents, NumExtents(options, extent_bytes));
  return num_extents * extent_bytes;
}

absl::StatusOr<StreamRecords> StreamRecords::Open(const StreamRecordsOptions& options, BlockPool* pool) {
  TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t num_extents, NumExtents(options, pool->extent_bytes()));
  if (num_extents > pool->num_free()) {
    return absl::ResourceExhaustedError(
        fmt::format("{} bytes needed for records beside a shard's K and V, {} free of {} in the KV pool; wait until "
                    "other sequences end, or give the node a larger pool",
                    num_extents * pool->extent_bytes(), pool->free_bytes(), pool->capacity_bytes()));
  }
  // One piece: as contiguous as the pool allows.
  TRIBUTARY_ASSIGN_OR_RETURN(std::vector<ExtentId> extents, pool->Acquire(1, static_cast<uint32_t>(num_extents)));
  return StreamRecords(options, pool, std::move(extents));
}

StreamRecords::StreamRecords(const StreamRecordsOptions& options, BlockPool* pool, std::vector<ExtentId> extents)
    : options_(options),
      pool_(pool),
      per_extent_(pool->extent_bytes() / options.record_bytes),
      extents_(std::move(extents)) {}

StreamRecords::StreamRecords(StreamRecords&& other) noexcept
    : options_(other.options_),
      pool_(other.pool_),
      per_extent_(other.per_extent_),
      extents_(std::exchange(other.extents_, {})) {}

StreamRecords::~StreamRecords() {
  if (!extents_.empty()) pool_->Release(extents_);
}

uint64_t StreamRecords::RunLength(uint64_t stream, uint64_t record, uint64_t end) const {
  const uint64_t index = stream * options_.records_per_stream + record;
  return std::min(end - record, per_extent_ - index % per_extent_);
}

}  // namespace tributary
