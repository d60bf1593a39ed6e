#include "policy/hgca/spill_section.h"

#include <cstring>

#include "base/check.h"
#include "base/limits.h"

namespace tributary {

std::span<std::byte> BeginHgcaSpillSection(uint32_t resident_tokens, std::span<std::byte> section) {
  TRIBUTARY_CHECK_GT(resident_tokens, uint32_t{0});
  TRIBUTARY_CHECK_GE(section.size(), sizeof(resident_tokens));
  std::memcpy(section.data(), &resident_tokens, sizeof(resident_tokens));
  return section.subspan(sizeof(resident_tokens));
}

bool DecodeHgcaSpillSection(std::span<const std::byte> section, uint32_t num_tokens, uint32_t num_kv_heads,
                            HgcaSpillSection* out) {
  if (section.empty()) {
    *out = {};
    return true;
  }
  if (section.size() != HgcaSpillSectionBytes(num_tokens, num_kv_heads)) return false;
  uint32_t resident_tokens = 0;
  std::memcpy(&resident_tokens, section.data(), sizeof(resident_tokens));
  if (resident_tokens == 0 || resident_tokens > limits::kMaxContextTokens) return false;
  *out = {resident_tokens, section.subspan(sizeof(resident_tokens))};
  return true;
}

}  // namespace tributary
