// Which token of a sequence lies in which of its resident slots: pure bookkeeping, no memory of its
// own.
//
//   slots [0, sink)          tokens [0, sink), for ever
//   slots [sink, capacity)   a ring: token p >= sink is in slot sink + (p - sink) % ring
//
// The ring holds tokens [remote_end, context). Once window_tokens + block_tokens of them are there,
// the oldest block may be sent away (next_spill), while its slots are still attended over. It
// leaves (remote_end moves) exactly when the ring is full, which is one block later: a fixed point
// of the sequence, so that which side covers a token, and with it every bit of the result, never
// depends on how fast an acknowledgement came. At that point the block must have been acknowledged;
// until it has, the sequence cannot append.
//
// Thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "attention/token_range.h"
#include "cluster/window_layout.h"
#include "gpu_worker/device/device.h"

namespace tributary {

class WindowCache {
 public:
  WindowCache() = default;
  // REQUIRES: Validate(layout).ok(), max_context_tokens > 0.
  WindowCache(const WindowLayout& layout, uint64_t max_context_tokens);

  uint32_t capacity_tokens() const { return capacity_tokens_; }
  uint64_t context_tokens() const { return context_tokens_; }
  // Tokens that only the shards hold: [sink, remote_end).
  TokenRange remote() const { return {layout_.sink_tokens, remote_end_}; }
  uint64_t resident_tokens() const { return context_tokens_ - remote().size(); }

  // The state after a prefill of this many tokens, of which the remote part went to the shards.
  // REQUIRES: empty.
  void Prefilled(uint64_t prompt_tokens);

  // So many Append() have a slot; remote() does not change meanwhile.
  uint64_t append_room() const;
  // True if the next Append() has a slot. If not, the block in next_spill() must be released first.
  bool CanAppend() const { return append_room() > 0; }
  // Takes the next position into the cache and returns its slot. REQUIRES: CanAppend().
  uint32_t Append();
  // The last so many Append() come to nothing: the next ones take the same positions and slots. REQUIRES: nothing was
  // released since.
  void TakeBack(uint32_t num_tokens);

  // Resident slots in token order: sinks, then the ring in at most two pieces.
  std::array<SlotRange, kMaxSlotRanges> AttendRanges() const;
  // Likewise of the newest tokens, so many or as many as there are. REQUIRES: they are resident.
  std::array<SlotRange, kMaxSlotRanges> NewestRanges(uint32_t num_tokens) const;
  // Slots of resident tokens in token order, at most two pieces (empty ones at the end). REQUIRES:
  // all resident, and all of them sinks or none.
  std::array<SlotRange, 2> SlotsOf(TokenRange tokens) const;

  // The oldest block, once it should be sent to the shards; nothing if the context can end before
  // it would have to leave.
  std::optional<TokenRange> next_spill() const;
  // The block of next_spill() leaves. REQUIRES: !CanAppend(), and every holder acknowledged it.
  void Release();

 private:
  uint32_t ring_tokens() const { return capacity_tokens_ - layout_.sink_tokens; }
  uint32_t SlotOf(uint64_t pos) const;

  WindowLayout layout_;
  uint64_t max_context_tokens_ = 0;
  uint32_t capacity_tokens_ = 0;
  uint64_t context_tokens_ = 0;
  uint64_t remote_end_ = 0;
};

}  // namespace tributary
