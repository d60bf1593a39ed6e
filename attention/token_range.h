// Which tokens of a context live where. Positions are 0-based and absolute; ranges are half-open.
//
//   [0, sink)                 sink tokens, resident on the GPU worker for ever
//   [sink, remote_end)        remote: in shards on CPU attention nodes, dealt to token stripes
//   [remote_end, context)     window, resident (counts the current token)
//
// remote_end moves only in whole blocks, and only once every holder of the block has acknowledged
// it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"

namespace tributary {

struct TokenRange {
  uint64_t begin = 0;
  uint64_t end = 0;

  uint64_t size() const { return end > begin ? end - begin : 0; }
  bool empty() const { return end <= begin; }
  bool Contains(TokenRange other) const { return begin <= other.begin && other.end <= end; }
  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

inline TokenRange Intersect(TokenRange a, TokenRange b) {
  const TokenRange both{std::max(a.begin, b.begin), std::min(a.end, b.end)};
  return both.empty() ? TokenRange{} : both;
}

// A cut of the remote tokens over `num_stripes` holders: from `origin` on, runs of `stripe_tokens`
// consecutive tokens are dealt round-robin; this holder has every run whose index is `stripe_idx`
// modulo num_stripes. With one stripe it has all. REQUIRES: Validate() is OK. Then no member
// function overflows for any position up to 2^63.
struct TokenStripe {
  uint64_t origin = 0;
  uint64_t stripe_tokens = 1;
  uint32_t num_stripes = 1;
  uint32_t stripe_idx = 0;

  friend bool operator==(const TokenStripe&, const TokenStripe&) = default;

  // The number of this stripe's tokens at positions < pos: also the local index at which token
  // `pos`, if it is of this stripe, is stored.
  uint64_t LocalIndex(uint64_t pos) const;
  // True if the token at `pos` (>= origin) belongs to this stripe.
  bool Owns(uint64_t pos) const;
  // Tokens of `range` that belong to this stripe; tokens before origin belong to none.
  uint64_t CountIn(TokenRange range) const {
    return range.empty() ? 0 : LocalIndex(range.end) - LocalIndex(range.begin);
  }
  // The longest run [pos, x) with x <= end in which all tokens belong to the same stripe as `pos`.
  // REQUIRES: pos >= origin.
  TokenRange RunAt(uint64_t pos, uint64_t end) const;
  // Index of the stripe that owns `pos`. REQUIRES: pos >= origin.
  uint32_t OwnerOf(uint64_t pos) const;
};

// INVALID_ARGUMENT with the offending values: zero or oversized fields (base/limits.h), index
// beyond the number of stripes.
absl::Status Validate(const TokenStripe& stripe);

}  // namespace tributary
