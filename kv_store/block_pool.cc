#include "kv_store/block_pool.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <limits>

#include "base/check.h"
#include "fmt/format.h"

namespace tributary {

BlockPool::BlockPool(std::span<std::byte> region, size_t extent_bytes) : region_(region), extent_bytes_(extent_bytes) {
  TRIBUTARY_CHECK(std::has_single_bit(extent_bytes));
  TRIBUTARY_CHECK_GE(extent_bytes, 4096u);
  TRIBUTARY_CHECK_EQ(reinterpret_cast<uintptr_t>(region.data()) % 64, 0u);
  const size_t num_extents = region.size() / extent_bytes;
  TRIBUTARY_CHECK_LE(num_extents, std::numeric_limits<ExtentId>::max());
  num_extents_ = static_cast<uint32_t>(num_extents);
  acquired_.assign(num_extents_, false);
  if (num_extents_ > 0) AddGap(0, num_extents_);
}

uint32_t BlockPool::num_free() const {
  const std::lock_guard lock(mutex_);
  return num_free_;
}

uint32_t BlockPool::largest_free_run() const {
  const std::lock_guard lock(mutex_);
  return gaps_by_size_.empty() ? 0 : gaps_by_size_.rbegin()->first;
}

void BlockPool::AddGap(ExtentId begin, uint32_t count) {
  gaps_.emplace(begin, count);
  gaps_by_size_.emplace(count, begin);
  num_free_ += count;
}

void BlockPool::RemoveGap(ExtentId begin, uint32_t count) {
  gaps_.erase(begin);
  gaps_by_size_.erase({count, begin});
  num_free_ -= count;
}

// How many extents to take next, of the `wanted` that are missing, and where.
// REQUIRES: wanted > 0, and at least so many are free.
std::pair<uint32_t, ExtentId> BlockPool::ChooseGap(uint32_t wanted, uint32_t extents_per_piece) const {
  const auto fits_all = gaps_by_size_.lower_bound({wanted, 0});
  if (fits_all != gaps_by_size_.end()) return {wanted, fits_all->second};
  const auto [largest, begin] = *gaps_by_size_.rbegin();
  const uint32_t missing_of_piece = wanted % extents_per_piece;  // of one that is in fragments
  if (missing_of_piece != 0) return {std::min(largest, missing_of_piece), begin};
  if (largest >= extents_per_piece) return {largest / extents_per_piece * extents_per_piece, begin};
  return {largest, begin};
}

absl::StatusOr<std::vector<ExtentId>> BlockPool::Acquire(uint32_t num_pieces, uint32_t extents_per_piece) {
  TRIBUTARY_CHECK_GT(extents_per_piece, 0u);
  const uint64_t count = uint64_t{num_pieces} * extents_per_piece;
  const std::lock_guard lock(mutex_);
  if (count > num_free_) {
    return absl::ResourceExhaustedError(
        fmt::format("KV pool: {} bytes needed, {} free of {}; wait until other sequences end, or give the "
                    "node a larger pool",
                    count * extent_bytes_, num_free_ * extent_bytes_, capacity_bytes()));
  }
  std::vector<ExtentId> extents;
  extents.reserve(count);
  while (extents.size() < count) {
    const uint32_t wanted = static_cast<uint32_t>(count - extents.size());
    const auto [taken, begin] = ChooseGap(wanted, extents_per_piece);
    const uint32_t gap = gaps_.at(begin);
    RemoveGap(begin, gap);
    if (gap > taken) AddGap(begin + taken, gap - taken);
    for (uint32_t i = 0; i < taken; ++i) {
      acquired_[begin + i] = true;
      extents.push_back(begin + i);
    }
  }
  return extents;
}

void BlockPool::Release(std::span<const ExtentId> extents) {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < extents.size();) {
    uint32_t count = 0;
    for (; i + count < extents.size() && extents[i + count] == extents[i] + count; ++count) {
      TRIBUTARY_CHECK_LT(extents[i + count], num_extents_);
      TRIBUTARY_CHECK(acquired_[extents[i + count]]);
      acquired_[extents[i + count]] = false;
    }
    Free(extents[i], count);
    i += count;
  }
}

// Joins the run with the gaps before and behind it.
void BlockPool::Free(ExtentId begin, uint32_t count) {
  auto next = gaps_.lower_bound(begin);
  if (next != gaps_.end() && next->first == begin + count) {
    const uint32_t next_count = next->second;
    RemoveGap(begin + count, next_count);
    count += next_count;
  }
  next = gaps_.lower_bound(begin);
  if (next != gaps_.begin()) {
    const auto [previous_begin, previous_count] = *std::prev(next);
    if (previous_begin + previous_count == begin) {
      RemoveGap(previous_begin, previous_count);
      begin = previous_begin;
      count += previous_count;
    }
  }
  AddGap(begin, count);
}

}  // namespace tributary
