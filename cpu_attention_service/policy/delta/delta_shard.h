// `delta` on a node (policy/README.md): each query's heads read the tokens that coarse codes of the keys find. The
// codes are the shard's; this keeps nothing from query to query.
//
//   a query                reads the tokens that it finds, exactly
//   ... of an appended prompt, or of several tokens: reads everything
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cpu_attention_service/policy/shard_policy.h"
#include "cpu_attention_service/policy/token_choice.h"
#include "cpu_attention_service/policy/token_finder.h"
#include "kv_store/kv_shard.h"
#include "policy/delta/delta.h"
#include "policy/delta/delta_params.h"

namespace tributary {

// Thread-compatible, but for what plans heads. No section: what a query says beside q is not needed.
class DeltaShard final : public ShardPolicy {
 public:
  // Of a shard that keeps the codes of DeltaPolicy::needs(), if there are any; the shard outlives it.
  explicit DeltaShard(const KvShard* shard);

  void OnStored(uint32_t layer, TokenRange local, std::span<const std::byte> section) override {}
  void PlanRead(const ReadRequest& request, ReadPlan* plan) override;
  void BeginScan(const ReadRequest& request, uint32_t kv_head) override;
  void ScanPart(const ReadRequest& request, uint32_t kv_head, uint32_t part) override;
  void PlanHead(const ReadRequest& request, uint32_t kv_head, ReadPlan* plan) override;

 private:
  // One KV head of the query in work.
  struct Head {
    std::vector<float> q;  // [row][head_dim]
    TokenFinder finder;
    std::vector<std::vector<uint32_t>> found;  // [row]
    ChosenTokens pieces;
  };

  bool IsAlwaysDense(const ReadRequest& request, uint32_t kv_head) const;

  const KvShard* const shard_;
  const DeltaParams params_;
  const DeltaPolicy policy_;
  const KeyCodes* codes_ = nullptr;  // null: everything is read
  std::vector<Head> heads_;          // [KV head held]
};

}  // namespace tributary
