// HGCA's section of a spill frame (behind K and V): the MAW of the tokens that leave the window, and over how many
// tokens the softmax went that it was taken from.
//
//   u32 resident_tokens; f32 maw[num_tokens][num_kv_heads]
//
// Little-endian, unaligned. A spill without a section says nothing about its tokens: the node judges them itself, as
// those of a prefill.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tributary {

struct HgcaSpillSection {
  uint32_t resident_tokens = 0;    // at least 1; 0: there is no section
  std::span<const std::byte> maw;  // f32 [num_tokens][num_kv_heads], unaligned, any values; borrows the section
};

constexpr size_t HgcaSpillSectionBytes(uint32_t num_tokens, uint32_t num_kv_heads) {
  return sizeof(uint32_t) + size_t{num_tokens} * num_kv_heads * sizeof(float);
}

// Writes what stands before the MAW; returns the rest, f32 [num_tokens][num_kv_heads], unaligned, for the caller to
// fill. REQUIRES (checked): resident_tokens > 0 and at least HgcaSpillSectionBytes(0, 0) bytes.
std::span<std::byte> BeginHgcaSpillSection(uint32_t resident_tokens, std::span<std::byte> section);

// Reads bytes from the network. True for a section of exactly these tokens and heads, or an empty one; false leaves
// *out alone. Pure; reads nothing beyond the section.
bool DecodeHgcaSpillSection(std::span<const std::byte> section, uint32_t num_tokens, uint32_t num_kv_heads,
                            HgcaSpillSection* out);

}  // namespace tributary
