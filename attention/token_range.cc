#include "attention/token_range.h"

#include "base/limits.h"
#include "fmt/format.h"

namespace tributary {

absl::Status Validate(const TokenStripe& stripe) {
  if (stripe.origin > limits::kMaxContextTokens) {
    return absl::InvalidArgumentError(fmt::format("token stripe: origin {} is beyond the longest context of {} tokens",
                                                  stripe.origin, limits::kMaxContextTokens));
  }
  if (stripe.stripe_tokens == 0 || stripe.stripe_tokens > limits::kMaxContextTokens) {
    return absl::InvalidArgumentError(fmt::format("token stripe: stripe_tokens is {}; it must be in [1, {}]",
                                                  stripe.stripe_tokens, limits::kMaxContextTokens));
  }
  if (stripe.num_stripes == 0 || stripe.num_stripes > limits::kMaxTokenStripes) {
    return absl::InvalidArgumentError(fmt::format("token stripe: num_stripes is {}; it must be in [1, {}]",
                                                  stripe.num_stripes, limits::kMaxTokenStripes));
  }
  if (stripe.stripe_idx >= stripe.num_stripes) {
    return absl::InvalidArgumentError(
        fmt::format("token stripe: stripe_idx {} is not below num_stripes {}", stripe.stripe_idx, stripe.num_stripes));
  }
  return absl::OkStatus();
}

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
