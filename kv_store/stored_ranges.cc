#include "kv_store/stored_ranges.h"

#include <algorithm>

#include "base/check.h"

namespace tributary {

bool StoredRanges::CanInsert(TokenRange range, size_t num_before) const {
  if (beyond_.size() + num_before < kMaxRanges || range.begin <= prefix_tokens_) return true;
  for (const TokenRange& stored : beyond_) {
    if (range.begin <= stored.end && stored.begin <= range.end) return true;  // joins it
  }
  return range.empty();
}

void StoredRanges::Insert(TokenRange range) {
  if (range.empty()) return;
  TRIBUTARY_CHECK(CanInsert(range));
  // [first, last) are the ranges that overlap or touch the new one; it swallows them.
  auto first = std::find_if(beyond_.begin(), beyond_.end(), [&](const TokenRange& r) { return r.end >= range.begin; });
  auto last = first;
  for (; last != beyond_.end() && last->begin <= range.end; ++last) {
    range.begin = std::min(range.begin, last->begin);
    range.end = std::max(range.end, last->end);
  }
  if (range.begin <= prefix_tokens_) {
    prefix_tokens_ = std::max(prefix_tokens_, range.end);
    beyond_.erase(first, last);
  } else if (first != last) {
    *first = range;
    beyond_.erase(first + 1, last);
  } else {
    beyond_.insert(first, range);
  }
}

}  // namespace tributary
