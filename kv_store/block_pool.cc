#include "kv_store/block_pool.h"

#include <bit>
#include <limits>

#include "base/check.h"
#include "fmt/format.h"

namespace tributary {

BlockPool::BlockPool(std::span<std::byte> region, size_t extent_bytes)
    : region_(region), extent_bytes_(extent_bytes) {
  TRIBUTARY_CHECK(std::has_single_bit(extent_bytes));
  TRIBUTARY_CHECK_GE(extent_bytes, 4096u);
  TRIBUTARY_CHECK_EQ(reinterpret_cast<uintptr_t>(region.data()) % 64, 0u);
  const size_t num_extents = region.size() / extent_bytes;
  TRIBUTARY_CHECK_LE(num_extents, std::numeric_limits<ExtentId>::max());
  num_extents_ = static_cast<uint32_t>(num_extents);
  acquired_.assign(num_extents_, false);
  free_.reserve(num_extents_);
  for (uint32_t i = num_extents_; i > 0; --i) free_.push_back(i - 1);  // lowest first out
}

absl::StatusOr<std::vector<ExtentId>> BlockPool::Acquire(uint32_t count) {
  if (count > num_free()) {
    return absl::ResourceExhaustedError(fmt::format(
        "KV pool: {} bytes needed, {} free of {}; wait until other sequences end, or give the "
        "node a larger pool",
        uint64_t{count} * extent_bytes_, free_bytes(), capacity_bytes()));
  }
  std::vector<ExtentId> extents(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - count);
  for (ExtentId extent : extents) acquired_[extent] = true;
  return extents;
}

void BlockPool::Release(std::span<const ExtentId> extents) {
  for (ExtentId extent : extents) {
    TRIBUTARY_CHECK_LT(extent, num_extents_);
    TRIBUTARY_CHECK(acquired_[extent]);
    acquired_[extent] = false;
  }
  // Reversed, so that acquiring as many again gives the same extents in the same order.
  free_.insert(free_.end(), extents.rbegin(), extents.rend());
}

}  // namespace tributary
