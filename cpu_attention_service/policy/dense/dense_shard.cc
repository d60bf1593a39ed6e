// The state of policy dense on a node: none. Every query reads everything.
#include "cpu_attention_service/policy/shard_policy_seats.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<ShardPolicy>> MakeDenseShardPolicy(const KvShard* shard, BlockPool* pool);

absl::StatusOr<std::unique_ptr<ShardPolicy>> MakeDenseShardPolicy(const KvShard* shard, BlockPool* pool) {
  return nullptr;
}

}  // namespace tributary
