#include "attention/token_range.h"

namespace tributary {

uint64_t TokenStripe::LocalIndex(uint64_t pos) const {
  if (pos <= origin) return 0;
  const uint64_t offset = pos - origin;
  const uint64_t round_tokens = stripe_tokens * num_stripes;
  const uint64_t in_round = offset % round_tokens;
  const uint64_t own_begin = stripe_tokens * stripe_idx;
  const uint64_t own = in_round <= own_begin ? 0 : std::min(in_round - own_begin, stripe_tokens);
  return offset / round_tokens * stripe_tokens + own;
}

bool TokenStripe::Owns(uint64_t pos) const { return pos >= origin && OwnerOf(pos) == stripe_idx; }

uint32_t TokenStripe::OwnerOf(uint64_t pos) const {
  return static_cast<uint32_t>((pos - origin) / stripe_tokens % num_stripes);
}

TokenRange TokenStripe::RunAt(uint64_t pos, uint64_t end) const {
  if (num_stripes == 1) return {pos, std::max(pos, end)};
  const uint64_t run_end = origin + ((pos - origin) / stripe_tokens + 1) * stripe_tokens;
  return {pos, std::max(pos, std::min(run_end, end))};
}

}  // namespace tributary
