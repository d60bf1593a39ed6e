#include "gpu_worker/device/host/resident_cache.h"

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "base/check.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr uint64_t kAlignmentBytes = 64;

}  // namespace

ResidentCache::ResidentCache(const AttentionShape& shape, uint32_t num_layers, uint64_t pool_bytes)
    : shape_(shape), num_layers_(num_layers), pool_(pool_bytes) {
  if (pool_bytes != 0) free_.emplace(0, pool_bytes);
}

absl::StatusOr<ResidentId> ResidentCache::Reserve(uint32_t capacity_tokens, DType kv_dtype) {
  if (capacity_tokens == 0 || !IsValidDType(kv_dtype)) {
    return absl::InvalidArgumentError(
        fmt::format("resident capacity of {} tokens in dtype '{}': both must be set",
                    capacity_tokens, DTypeName(kv_dtype)));
  }
  const uint64_t token_bytes =
      uint64_t{2} * num_layers_ * shape_.num_kv_heads * shape_.head_dim * DTypeBytes(kv_dtype);
  const uint64_t bytes =
      (token_bytes * capacity_tokens + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
  const auto extent =
      std::find_if(free_.begin(), free_.end(), [&](const auto& e) { return e.second >= bytes; });
  if (extent == free_.end()) {
    uint64_t largest = 0;
    for (const auto& [offset, size] : free_) largest = std::max(largest, size);
    return absl::ResourceExhaustedError(
        fmt::format("resident KV of {} tokens needs {} bytes; {} of {} bytes are free (largest "
                    "piece {}): wait for other "
                    "sequences, use a smaller window, or enlarge the resident pool",
                    capacity_tokens, bytes, pool_.size() - used_bytes_, pool_.size(), largest));
  }
  const Region region{extent->first, bytes, capacity_tokens, kv_dtype};
  const uint64_t left = extent->second - bytes;
  free_.erase(extent);
  if (left != 0) free_.emplace(region.offset + bytes, left);
  used_bytes_ += bytes;
  auto entry =
      std::find_if(regions_.begin(), regions_.end(), [](const Region& r) { return r.bytes == 0; });
  if (entry == regions_.end()) entry = regions_.insert(regions_.end(), Region{});
  *entry = region;
  return ResidentId(static_cast<uint32_t>(entry - regions_.begin()));
}

void ResidentCache::Release(ResidentId id) {
  Region& released = regions_[id.value];
  TRIBUTARY_CHECK_NE(region(id).bytes, uint64_t{0});
  used_bytes_ -= released.bytes;
  auto extent = free_.emplace(released.offset, released.bytes).first;
  if (const auto next = std::next(extent);
      next != free_.end() && extent->first + extent->second == next->first) {
    extent->second += next->second;
    free_.erase(next);
  }
  if (extent != free_.begin()) {
    const auto previous = std::prev(extent);
    if (previous->first + previous->second == extent->first) {
      previous->second += extent->second;
      free_.erase(extent);
    }
  }
  released = Region{};
}

const ResidentCache::Region& ResidentCache::region(ResidentId id) const {
  TRIBUTARY_CHECK_LT(id.value, regions_.size());
  const Region& region = regions_[id.value];
  TRIBUTARY_CHECK_NE(region.bytes, uint64_t{0});
  return region;
}

std::byte* ResidentCache::Slots(ResidentId id, uint32_t layer, Kind kind, uint32_t kv_head) {
  const Region& r = region(id);
  TRIBUTARY_CHECK_LT(layer, num_layers_);
  const uint64_t head_idx =
      (uint64_t{layer} * 2 + static_cast<uint64_t>(kind)) * shape_.num_kv_heads + kv_head;
  return pool_.data() + r.offset +
         head_idx * r.capacity_tokens * shape_.head_dim * DTypeBytes(r.dtype);
}

template <typename Copy>
void ResidentCache::ForEachVector(ResidentId id, uint32_t layer, Kind kind, SlotRange slots,
                                  size_t canonical_bytes, const Copy& copy) {
  const size_t vector_bytes = shape_.head_dim * DTypeBytes(dtype(id));
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(slots.end, capacity_tokens(id));
  TRIBUTARY_CHECK_EQ(canonical_bytes,
                     (slots.end - slots.begin) * shape_.num_kv_heads * vector_bytes);
  for (uint32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    std::byte* head = Slots(id, layer, kind, kv_head);
    for (uint32_t slot = slots.begin; slot < slots.end; ++slot) {
      const size_t token_idx = slot - slots.begin;
      copy(head + slot * vector_bytes, (token_idx * shape_.num_kv_heads + kv_head) * vector_bytes,
           vector_bytes);
    }
  }
}

void ResidentCache::Write(ResidentId id, uint32_t layer, Kind kind, SlotRange slots,
                          std::span<const std::byte> canonical) {
  ForEachVector(id, layer, kind, slots, canonical.size(),
                [&](std::byte* stored, size_t offset, size_t bytes) {
                  std::memcpy(stored, canonical.data() + offset, bytes);
                });
}

void ResidentCache::Read(ResidentId id, uint32_t layer, Kind kind, SlotRange slots,
                         std::span<std::byte> canonical) {
  ForEachVector(id, layer, kind, slots, canonical.size(),
                [&](const std::byte* stored, size_t offset, size_t bytes) {
                  std::memcpy(canonical.data() + offset, stored, bytes);
                });
}

}  // namespace tributary
