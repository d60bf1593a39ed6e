// Some heads out of canonical rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"
#include "gpu_worker/device/device.h"

namespace tributary {

// Copies `heads` of `num_tokens` canonical rows of `num_heads` heads, head_bytes each.
inline void PackHeads(std::span<const std::byte> rows, uint32_t num_tokens, uint32_t num_heads, size_t head_bytes,
                      HeadRange heads, std::span<std::byte> packed) {
  const size_t row_bytes = num_heads * head_bytes;
  const size_t packed_row_bytes = (heads.end - heads.begin) * head_bytes;
  TRIBUTARY_CHECK_EQ(rows.size(), num_tokens * row_bytes);
  TRIBUTARY_CHECK_EQ(packed.size(), num_tokens * packed_row_bytes);
  if (packed_row_bytes == row_bytes) {
    std::memcpy(packed.data(), rows.data(), rows.size());
    return;
  }
  for (uint32_t token = 0; token < num_tokens; ++token) {
    std::memcpy(packed.data() + token * packed_row_bytes, rows.data() + token * row_bytes + heads.begin * head_bytes,
                packed_row_bytes);
  }
}

}  // namespace tributary
