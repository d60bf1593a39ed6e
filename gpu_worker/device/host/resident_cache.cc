#include "gpu_worker/device/host/resident_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace tributary {

ResidentCache::ResidentCache(const AttentionShape& shape, uint32_t num_layers, uint64_t pool_bytes)
    : shape_(shape), num_layers_(num_layers), regions_(shape, num_layers, pool_bytes), pool_(pool_bytes) {}

template <typename Copy>
void ResidentCache::ForEachVector(ResidentId id, uint32_t layer, Kind kind, SlotRange slots, HeadRange heads,
                                  size_t canonical_bytes, const Copy& copy) {
  const size_t vector_bytes = shape_.head_dim * DTypeBytes(dtype(id));
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(slots.end, capacity_tokens(id));
  TRIBUTARY_CHECK_LE(heads.begin, heads.end);
  TRIBUTARY_CHECK_LE(heads.end, shape_.num_kv_heads);
  const size_t num_heads = heads.end - heads.begin;
  TRIBUTARY_CHECK_EQ(canonical_bytes, (slots.end - slots.begin) * num_heads * vector_bytes);
  for (uint32_t kv_head = heads.begin; kv_head < heads.end; ++kv_head) {
    std::byte* head = Slots(id, layer, kind, kv_head);
    for (uint32_t slot = slots.begin; slot < slots.end; ++slot) {
      const size_t token_idx = slot - slots.begin;
      copy(head + slot * vector_bytes, (token_idx * num_heads + kv_head - heads.begin) * vector_bytes, vector_bytes);
    }
  }
}

void ResidentCache::Write(ResidentId id, uint32_t layer, Kind kind, SlotRange slots,
                          std::span<const std::byte> canonical) {
  ForEachVector(
      id, layer, kind, slots, {0, shape_.num_kv_heads}, canonical.size(),
      [&](std::byte* stored, size_t offset, size_t bytes) { std::memcpy(stored, canonical.data() + offset, bytes); });
}

void ResidentCache::Read(ResidentId id, uint32_t layer, Kind kind, SlotRange slots, HeadRange heads,
                         std::span<std::byte> canonical) {
  ForEachVector(id, layer, kind, slots, heads, canonical.size(),
                [&](const std::byte* stored, size_t offset, size_t bytes) {
                  std::memcpy(canonical.data() + offset, stored, bytes);
                });
}

void ResidentCache::ForgetMaw(ResidentId id, uint32_t layer, SlotRange slots) {
  if (!maw(id).has_value()) return;
  for (uint32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    const std::span<float> head = Maw(id, layer, kv_head);
    std::fill(head.begin() + slots.begin, head.begin() + slots.end, NAN);
  }
}

void ResidentCache::ReadMaw(ResidentId id, SlotRange slots, std::span<float> maw) {
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(slots.end, capacity_tokens(id));
  const size_t num_slots = slots.end - slots.begin;
  TRIBUTARY_CHECK_EQ(maw.size(), size_t{num_layers_} * shape_.num_kv_heads * num_slots);
  float* to = maw.data();
  for (uint32_t layer = 0; layer < num_layers_; ++layer) {
    for (uint32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head, to += num_slots) {
      std::copy_n(Maw(id, layer, kv_head).data() + slots.begin, num_slots, to);
    }
  }
}

}  // namespace tributary
