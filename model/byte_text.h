// Text of models whose vocabulary is the 256 bytes (the probe model): token id = byte value. Raw
// bytes, no UTF-8 checks.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tributary {

inline constexpr uint32_t kByteVocab = 256;

inline std::vector<uint32_t> TokensFromBytes(std::string_view text) {
  std::vector<uint32_t> tokens;
  tokens.reserve(text.size());
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

// Ids beyond the bytes (a vocabulary padded to more than 256) become '?'.
inline std::string BytesFromTokens(std::span<const uint32_t> tokens) {
  std::string text;
  text.reserve(tokens.size());
  for (const uint32_t token : tokens) text.push_back(token < kByteVocab ? static_cast<char>(token) : '?');
  return text;
}

}  // namespace tributary
