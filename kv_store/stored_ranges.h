// Which tokens of one layer of a shard are there: a prefix without gaps, and a bounded number of
// ranges beyond the first gap (frames may arrive out of order). In stripe-local token numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/token_range.h"

namespace tributary {

// Thread-compatible.
class StoredRanges {
 public:
  // Ranges beyond the first gap that one layer remembers. The senders bound what is in flight; this
  // bounds our memory.
  static constexpr size_t kMaxRanges = 256;

  uint64_t prefix_tokens() const { return prefix_tokens_; }
  size_t num_ranges() const { return beyond_.size(); }

  // False if inserting the range, after `num_before` others that are decided on, might need more than kMaxRanges.
  bool CanInsert(TokenRange range, size_t num_before = 0) const;
  // REQUIRES: CanInsert(range). Inserting again changes nothing.
  void Insert(TokenRange range);

  // Calls fn(TokenRange) for each maximal part of `range` that is not there yet, in order.
  template <typename Fn>
  void ForEachMissing(TokenRange range, const Fn& fn) const {
    uint64_t pos = std::max(range.begin, prefix_tokens_);
    for (const TokenRange& stored : beyond_) {
      if (stored.end <= pos) continue;
      if (stored.begin >= range.end) break;
      if (pos < stored.begin) fn(TokenRange{pos, stored.begin});
      pos = stored.end;
    }
    if (pos < range.end) fn(TokenRange{pos, range.end});
  }

 private:
  uint64_t prefix_tokens_ = 0;
  std::vector<TokenRange> beyond_;  // sorted, disjoint, not touching each other nor the prefix
};

}  // namespace tributary
