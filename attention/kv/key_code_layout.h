// How the coarse codes of a stream's keys lie in memory: what a policy scans in full, in place of the keys, to find the
// tokens that a query attends to most.
//
// A code has 1, 2 or 4 bits per dim, on evenly spaced levels about the mean of 64 consecutive tokens, which share a
// record; keys are rotated first (attention/kv/hadamard.h):
//
//   key[t][d] = about mean[d] + scale[t] * (code[t][d] - (2^bits - 1) / 2)        for the tokens t of a record
//   mean[d]   = mean_scale * mean_code[d]                                         int8
//
// The mean is the record's own because keys drift with their position: after RoPE the slow dims turn once in thousands
// of tokens. On SmolLM2 the best hundredth of the tokens by 2-bit codes of this form holds 0.53 of the softmax over
// remote tokens, by a mean of the stream 0.49, by exact scores 0.57.
//
//   [padded_dim / dims of a word][64 tokens] words of 32 bits, then mean codes [padded_dim], then f32 scale [64], then
//   f32 mean_scale, then padding to 64 bytes
//
// so that a scan reads records front to back, a lane per token. Byte b of word w has in its bits [bits * s, bits * (s +
// 1)) dim (32 / bits) * w + 4 * s + b: a shift and a mask make four bytes of four neighbouring dims, the unsigned
// operand of a dot product. head_dim is padded with dims whose weight in a query is 0. The scale of a token whose key
// is not finite is NaN, and so is its score: selections take it, so that the attention over it shows what is wrong.
//
// Internal linkage throughout: sources with ISA flags include this (attention/kv/kv_tile_layout.h says why).
#pragma once

#include <cstdint>

namespace tributary {

inline constexpr uint32_t kKeyCodeRecordTokens = 64;  // those of a tile

// Byte offsets and sizes of one record. Make it with MakeKeyCodeLayout.
struct KeyCodeLayout {
  uint32_t bits = 2;
  uint32_t head_dim = 0;
  uint32_t padded_dim = 0;  // a multiple of word_dims
  uint32_t word_dims = 0;   // of a 32-bit word
  uint32_t mean_begin = 0;
  uint32_t scales_begin = 0;
  uint32_t mean_scale_begin = 0;
  uint32_t record_bytes = 0;  // a multiple of 64

  uint32_t max_code() const { return (1u << bits) - 1; }
};

static constexpr bool IsKeyCodeBits(uint64_t bits) { return bits == 1 || bits == 2 || bits == 4; }

// REQUIRES: IsKeyCodeBits(bits), head_dim > 0.
static constexpr KeyCodeLayout MakeKeyCodeLayout(uint32_t bits, uint32_t head_dim) {
  KeyCodeLayout layout;
  layout.bits = bits;
  layout.head_dim = head_dim;
  layout.word_dims = 32 / bits;
  layout.padded_dim = (head_dim + layout.word_dims - 1) / layout.word_dims * layout.word_dims;
  layout.mean_begin = layout.padded_dim / layout.word_dims * kKeyCodeRecordTokens * 4;
  layout.scales_begin = layout.mean_begin + layout.padded_dim;
  layout.mean_scale_begin = layout.scales_begin + kKeyCodeRecordTokens * 4;
  layout.record_bytes = (layout.mean_scale_begin + 4 + 63) / 64 * 64;
  return layout;
}

// Where a code is: in byte `byte` of the record, from bit `shift` on.
struct KeyCodePlace {
  uint32_t byte = 0;
  uint32_t shift = 0;
};

// REQUIRES: dim < layout.padded_dim, token < 64.
static constexpr KeyCodePlace PlaceOfKeyCode(const KeyCodeLayout& layout, uint32_t dim, uint32_t token) {
  const uint32_t word = dim / layout.word_dims, in_word = dim % layout.word_dims;
  return {(word * kKeyCodeRecordTokens + token) * 4 + in_word % 4, in_word / 4 * layout.bits};
}

}  // namespace tributary
