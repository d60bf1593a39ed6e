// The bytes that the toy policy's seats write to each other. Little-endian, unaligned.
//
//   query    u32 phase
//   spill    f32 mark[token][kv_head of the shard]: the first element of the token's key
//   partial  per KV head of the shard: f64 sum of the marks of the tokens chosen, u64 number of tokens chosen
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace tributary::toy {

inline constexpr uint32_t kBlockTokens = 16;

// Whether the block of stripe-local tokens [block * 16, block * 16 + 16) is read by a query of this phase.
constexpr bool IsRead(uint64_t block, uint64_t every, uint64_t phase) { return block % every == phase; }

struct Read {
  double mark_sum = 0;  // in ascending order of tokens
  uint64_t num_tokens = 0;

  friend bool operator==(const Read&, const Read&) = default;
};

template <typename T>
T Load(std::span<const std::byte> section, size_t index) {
  T value;
  std::memcpy(&value, section.data() + index * sizeof(T), sizeof(T));
  return value;
}
template <typename T>
void Store(std::span<std::byte> section, size_t index, const T& value) {
  std::memcpy(section.data() + index * sizeof(T), &value, sizeof(T));
}

}  // namespace tributary::toy
