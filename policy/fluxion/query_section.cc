#include "policy/fluxion/query_section.h"

#include <cstring>

#include "base/check.h"

namespace tributary {

bool DecodeFluxionQuerySection(std::span<const std::byte> section, uint32_t num_q_heads, uint32_t head_dim,
                               bool has_out, FluxionQuerySection* to) {
  if (section.empty()) {
    *to = {};
    return true;
  }
  if (section.size() != FluxionQuerySectionBytes(num_q_heads, head_dim, has_out)) return false;
  const size_t lse_bytes = FluxionQuerySectionBytes(num_q_heads, head_dim, false);
  *to = {section.first(lse_bytes), section.subspan(lse_bytes)};
  return true;
}

void EncodeFluxionQuerySection(ConstAttentionPartialView resident, std::span<std::byte> section) {
  TRIBUTARY_CHECK_EQ(section.size(), resident.lse_ln.size_bytes() + resident.out.size_bytes());
  std::memcpy(section.data(), resident.lse_ln.data(), resident.lse_ln.size_bytes());
  if (resident.out.empty()) return;
  std::memcpy(section.data() + resident.lse_ln.size_bytes(), resident.out.data(), resident.out.size_bytes());
}

}  // namespace tributary
