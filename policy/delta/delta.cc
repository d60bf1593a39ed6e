#include "policy/delta/delta.h"

#include <algorithm>
#include <cmath>

namespace tributary {

DeltaPolicy::DeltaPolicy(const DeltaParams& delta, const SparseParams& sparse)
    : delta_(delta), sparse_(sparse), may_leave_out_(delta.max_share < 1 || delta.delta_nats > 0) {
  if (may_leave_out_) needs_.key_code_bits.push_back(delta.key_code_bits);
}

uint32_t DeltaPolicy::MaxTokens(uint64_t num_tokens) const {
  if (num_tokens == 0) return 0;
  // A product that rounding has put just above a whole number is that number.
  const double tokens = std::ceil(delta_.max_share * static_cast<double>(num_tokens) * (1 - 1e-12));
  return static_cast<uint32_t>(std::clamp(tokens, 1.0, static_cast<double>(num_tokens)));
}

}  // namespace tributary
