#include "gpu_worker/sequence/window_cache.h"

#include <algorithm>

#include "base/check.h"
#include "base/limits.h"
#include "fmt/format.h"

namespace tributary {

WindowCache::WindowCache(const WindowLayout& layout, uint64_t max_context_tokens)
    : layout_(layout),
      max_context_tokens_(max_context_tokens),
      capacity_tokens_(static_cast<uint32_t>(layout.CapacityTokens(max_context_tokens))) {
  TRIBUTARY_CHECK_GT(capacity_tokens_, 0u);
  // A context that ends inside the sinks has no ring, and one that is all resident needs no sinks:
  // both are plain slots.
  if (layout_.all_resident) layout_.sink_tokens = 0;
  layout_.sink_tokens = std::min(layout_.sink_tokens, capacity_tokens_);
  remote_end_ = layout_.sink_tokens;
}

void WindowCache::Prefilled(uint64_t prompt_tokens) {
  TRIBUTARY_CHECK_EQ(context_tokens_, 0u);
  context_tokens_ = prompt_tokens;
  remote_end_ = std::max<uint64_t>(layout_.RemoteEnd(prompt_tokens), layout_.sink_tokens);
  TRIBUTARY_CHECK_LE(resident_tokens(), capacity_tokens_);
}

uint64_t WindowCache::append_room() const {
  // remote_end_ is where the ring begins, also while the context ends inside the sinks.
  return remote_end_ + ring_tokens() - context_tokens_;
}

uint32_t WindowCache::Append() {
  TRIBUTARY_CHECK(CanAppend());
  return SlotOf(context_tokens_++);
}

void WindowCache::TakeBack(uint32_t num_tokens) {
  TRIBUTARY_CHECK_LE(num_tokens, context_tokens_ - remote_end_);
  context_tokens_ -= num_tokens;
}

uint32_t WindowCache::SlotOf(uint64_t pos) const {
  const uint32_t sink = layout_.sink_tokens;
  if (pos < sink) return static_cast<uint32_t>(pos);
  return sink + static_cast<uint32_t>((pos - sink) % ring_tokens());
}

std::array<SlotRange, 2> WindowCache::SlotsOf(TokenRange tokens) const {
  std::array<SlotRange, 2> slots{};
  if (tokens.empty()) return slots;
  const auto size = static_cast<uint32_t>(tokens.size());
  const uint32_t begin = SlotOf(tokens.begin);
  const uint32_t first = std::min(size, capacity_tokens_ - begin);
  slots[0] = {begin, begin + first};
  if (first < size) slots[1] = {layout_.sink_tokens, layout_.sink_tokens + size - first};
  return slots;
}

std::array<SlotRange, kMaxSlotRanges> WindowCache::AttendRanges() const {
  const auto sinks = static_cast<uint32_t>(std::min<uint64_t>(context_tokens_, layout_.sink_tokens));
  const auto ring = SlotsOf({remote_end_, context_tokens_});
  return {SlotRange{0, sinks}, ring[0], ring[1]};
}

std::array<SlotRange, kMaxSlotRanges> WindowCache::NewestRanges(uint32_t num_tokens) const {
  const uint64_t begin = context_tokens_ - std::min<uint64_t>(num_tokens, context_tokens_);
  const auto sinks = static_cast<uint32_t>(std::min<uint64_t>(context_tokens_, layout_.sink_tokens));
  TRIBUTARY_CHECK(begin >= remote_end_ || remote().empty());
  const auto ring = SlotsOf({std::max<uint64_t>(begin, remote_end_), std::max(context_tokens_, remote_end_)});
  return {SlotRange{static_cast<uint32_t>(std::min<uint64_t>(begin, sinks)), sinks}, ring[0], ring[1]};
}

std::optional<TokenRange> WindowCache::next_spill() const {
  if (layout_.all_resident || context_tokens_ < remote_end_) return std::nullopt;
  if (context_tokens_ - remote_end_ < uint64_t{layout_.window_tokens} + layout_.block_tokens) {
    return std::nullopt;
  }
  if (max_context_tokens_ - remote_end_ <= ring_tokens()) return std::nullopt;
  return TokenRange{remote_end_, remote_end_ + layout_.block_tokens};
}

void WindowCache::Release() {
  TRIBUTARY_CHECK(!CanAppend());
  TRIBUTARY_CHECK(next_spill().has_value());
  remote_end_ += layout_.block_tokens;
}

}  // namespace tributary
