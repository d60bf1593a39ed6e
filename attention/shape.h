// Head geometry of grouped-query attention, checked once.
#pragma once

#include <cstdint>

#include "absl/status/status.h"

namespace tributary {

struct AttentionShape {
  uint32_t num_q_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;

  uint32_t group_size() const { return num_q_heads / num_kv_heads; }
  friend bool operator==(const AttentionShape&, const AttentionShape&) = default;
};

// INVALID_ARGUMENT with the offending values: zero or oversized fields (base/limits.h), q heads not
// a multiple of kv heads.
absl::Status Validate(const AttentionShape& shape);

}  // namespace tributary
