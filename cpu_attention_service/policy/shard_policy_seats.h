// Which policies have state on a node.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "cpu_attention_service/policy/shard_policy.h"
#include "kv_store/block_pool.h"
#include "kv_store/kv_shard.h"
#include "policy/seat_table.h"

namespace tributary {

// Makes the state of a newly opened shard of this policy, out of the pool that the shard is of; both outlive it. Null:
// every query reads everything. The shard keeps the summaries that the policy asked for (PolicyNeeds). Errors as of
// KvShard::Open.
using ShardPolicyFactory = absl::StatusOr<std::unique_ptr<ShardPolicy>> (*)(const KvShard* shard, BlockPool* pool);

// One factory for each row of policy/policies.def, called Make<Name>ShardPolicy; tests add theirs.
SeatTable<ShardPolicyFactory>& ShardPolicySeats();

// Asks the seat of the shard's policy for the state.
absl::StatusOr<std::unique_ptr<ShardPolicy>> OpenShardPolicy(const KvShard* shard, BlockPool* pool);

}  // namespace tributary
