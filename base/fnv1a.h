// FNV-1a, 64 bits: names the content of small things, such as specs, so that others can compute the same name. It is no
// checksum for damage (crc32c.h), and no protection against intent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace tributary {

inline constexpr uint64_t kFnv1aBegin = 0xcbf29ce484222325u;

// Goes on from the hash of what was before.
constexpr uint64_t Fnv1a(std::span<const std::byte> bytes, uint64_t before = kFnv1aBegin) {
  uint64_t hash = before;
  for (const std::byte byte : bytes) hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001b3u;
  return hash;
}
constexpr uint64_t Fnv1a(std::string_view text, uint64_t before = kFnv1aBegin) {
  uint64_t hash = before;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return hash;
}

}  // namespace tributary
