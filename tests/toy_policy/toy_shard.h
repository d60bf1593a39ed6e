// The toy policy on a node: the marks of a shard's tokens, and which blocks a query reads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "cpu_attention_service/policy/shard_policy.h"
#include "kv_store/block_pool.h"
#include "kv_store/kv_shard.h"
#include "kv_store/stream_records.h"

namespace tributary::toy {

class ToyShard final : public ShardPolicy {
 public:
  static absl::StatusOr<std::unique_ptr<ShardPolicy>> Open(const KvShard* shard, BlockPool* pool);

  uint64_t reserved_bytes() const override { return marks_.reserved_bytes(); }

  FrameError CheckSpill(uint32_t num_tokens, std::span<const std::byte> section) const override;
  void OnStored(uint32_t layer, TokenRange local, std::span<const std::byte> section) override;
  FrameError CheckQuery(const ReadRequest& request) const override;
  uint32_t PartialSectionBytes(const ReadRequest& request) const override;
  void PlanRead(const ReadRequest& request, ReadPlan* plan) override;
  void PlanHead(const ReadRequest& request, uint32_t kv_head, ReadPlan* plan) override;
  void WritePartial(const ReadRequest& request, const ReadPlan& plan, const AttentionPartialView& partial,
                    std::span<std::byte> section) override;

  // For a test of what the worker makes of it: partials say that one token more was read.
  static inline bool tells_lies = false;

 private:
  ToyShard(const KvShard* shard, StreamRecords marks);
  uint64_t Stream(uint32_t layer, uint32_t kv_head) const { return shard_->SummaryStream(layer, kv_head); }
  float& Mark(uint32_t layer, uint32_t kv_head, uint64_t token);

  const KvShard* const shard_;
  const uint64_t every_;
  StreamRecords marks_;
  std::vector<std::vector<ReadPiece>> pieces_;  // [KV head held]: of the query in work
};

}  // namespace tributary::toy
