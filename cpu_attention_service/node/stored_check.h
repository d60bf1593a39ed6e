// Before attention, or anything else, reads tiles for the first time since something was stored in them, they are
// checked against their CRCs: on all of the executor's threads, once. What was checked before costs two loads.
#pragma once

#include <cstdint>
#include <functional>

#include "cpu_attention_service/executor/shard_executor.h"
#include "kv_store/kv_shard.h"

namespace tributary {

// Thread-compatible: the I/O thread's.
class StoredCheck {
 public:
  // The executor outlives it. `between` is called now and then during a long check; it must not touch shards.
  StoredCheck(ShardExecutor* executor, std::function<void()> between)
      : executor_(executor), between_(std::move(between)) {}

  // Whether the layer's stripe-local tokens [0, end) have the bytes that were stored; they were checked once, now or
  // before, and since then by the scrub. REQUIRES: layer held, end <= stored_tokens(layer).
  bool MayRead(KvShard& shard, uint32_t layer, uint64_t end) {
    const uint64_t stored = shard.stored_tokens(layer);
    if (shard.checked_tokens(layer) < stored) CheckNew(shard, layer, stored);
    return end <= shard.first_corrupt_token(layer);
  }

  // Since the start.
  uint64_t checked_bytes() const { return checked_bytes_; }

 private:
  void CheckNew(KvShard& shard, uint32_t layer, uint64_t stored);

  ShardExecutor* const executor_;
  const std::function<void()> between_;
  uint64_t checked_bytes_ = 0;
};

}  // namespace tributary
