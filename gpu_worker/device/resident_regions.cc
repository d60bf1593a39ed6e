#include "gpu_worker/device/resident_regions.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "base/check.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// A cache line; wide loads need 16.
constexpr uint64_t kAlignmentBytes = 64;

uint64_t AlignUp(uint64_t bytes) { return (bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes; }

}  // namespace

ResidentRegions::ResidentRegions(const AttentionShape& shape, uint32_t num_layers, uint64_t pool_bytes)
    : shape_(shape), num_layers_(num_layers), pool_bytes_(pool_bytes) {
  if (pool_bytes != 0) free_.emplace(0, pool_bytes);
}

absl::StatusOr<ResidentId> ResidentRegions::Reserve(uint32_t capacity_tokens, DType kv_dtype,
                                                    std::span<const PolicyBytes> parts) {
  if (capacity_tokens == 0 || !IsValidDType(kv_dtype)) {
    return absl::InvalidArgumentError(fmt::format("resident capacity of {} tokens in dtype '{}': both must be set",
                                                  capacity_tokens, DTypeName(kv_dtype)));
  }
  const uint64_t token_bytes = uint64_t{2} * num_layers_ * shape_.num_kv_heads * shape_.head_dim * DTypeBytes(kv_dtype);
  Region region{.bytes = AlignUp(token_bytes * capacity_tokens), .capacity_tokens = capacity_tokens, .dtype = kv_dtype};
  for (const PolicyBytes& part : parts) {
    region.parts.push_back({part.kind, region.bytes, part.bytes});  // the offset is the region's own, yet
    region.bytes += AlignUp(part.bytes);
  }
  const uint64_t bytes = region.bytes;
  const auto extent = std::find_if(free_.begin(), free_.end(), [&](const auto& e) { return e.second >= bytes; });
  if (extent == free_.end()) {
    uint64_t largest = 0;
    for (const auto& [offset, size] : free_) largest = std::max(largest, size);
    return absl::ResourceExhaustedError(
        fmt::format("resident KV of {} tokens needs {} bytes; {} of {} bytes are free (largest "
                    "piece {}): wait for other "
                    "sequences, use a smaller window, or enlarge the resident pool",
                    capacity_tokens, bytes, pool_bytes_ - used_bytes_, pool_bytes_, largest));
  }
  region.offset = extent->first;
  for (Part& part : region.parts) part.offset += region.offset;
  const uint64_t left = extent->second - bytes;
  free_.erase(extent);
  if (left != 0) free_.emplace(region.offset + bytes, left);
  used_bytes_ += bytes;
  auto entry = std::find_if(regions_.begin(), regions_.end(), [](const Region& r) { return r.bytes == 0; });
  if (entry == regions_.end()) entry = regions_.insert(regions_.end(), Region{});
  Account(region.parts, /*reserved=*/true);
  *entry = std::move(region);
  return ResidentId(static_cast<uint32_t>(entry - regions_.begin()));
}

void ResidentRegions::Release(ResidentId id) {
  Region& released = regions_[id.value];
  TRIBUTARY_CHECK_NE(region(id).bytes, uint64_t{0});
  used_bytes_ -= released.bytes;
  Account(released.parts, /*reserved=*/false);
  auto extent = free_.emplace(released.offset, released.bytes).first;
  if (const auto next = std::next(extent); next != free_.end() && extent->first + extent->second == next->first) {
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

const ResidentRegions::Region& ResidentRegions::region(ResidentId id) const {
  TRIBUTARY_CHECK_LT(id.value, regions_.size());
  const Region& region = regions_[id.value];
  TRIBUTARY_CHECK_NE(region.bytes, uint64_t{0});
  return region;
}

uint64_t ResidentRegions::SlotsOffset(ResidentId id, uint32_t layer, Kind kind, uint32_t kv_head) const {
  const Region& r = region(id);
  TRIBUTARY_CHECK_LT(layer, num_layers_);
  const uint64_t head_idx = (uint64_t{layer} * 2 + static_cast<uint64_t>(kind)) * shape_.num_kv_heads + kv_head;
  return r.offset + head_idx * r.capacity_tokens * shape_.head_dim * DTypeBytes(r.dtype);
}

void ResidentRegions::Account(std::span<const Part> parts, bool reserved) {
  for (const Part& part : parts) {
    auto of_kind = std::find_if(policy_bytes_.begin(), policy_bytes_.end(),
                                [&](const PolicyBytes& b) { return std::string_view(b.kind) == part.kind; });
    if (of_kind == policy_bytes_.end()) of_kind = policy_bytes_.insert(of_kind, {part.kind, 0});
    reserved ? of_kind->bytes += part.bytes : of_kind->bytes -= part.bytes;
  }
}

}  // namespace tributary
