#include "cpu_attention_service/policy/shard_policy_seats.h"

#include <string>

#include "fmt/format.h"

namespace tributary {

#define TRIBUTARY_POLICY(name, Name) \
  absl::StatusOr<std::unique_ptr<ShardPolicy>> Make##Name##ShardPolicy(const KvShard* shard, BlockPool* pool);
#include "policy/policies.def"

SeatTable<ShardPolicyFactory>& ShardPolicySeats() {
  static SeatTable<ShardPolicyFactory> seats = {
#define TRIBUTARY_POLICY(name, Name) {#name, &Make##Name##ShardPolicy},
#include "policy/policies.def"
  };
  return seats;
}

absl::StatusOr<std::unique_ptr<ShardPolicy>> OpenShardPolicy(const KvShard* shard, BlockPool* pool) {
  const std::string_view name = shard->spec().policy.name();
  const ShardPolicyFactory* factory = ShardPolicySeats().Find(name);
  if (factory == nullptr) {
    return absl::UnimplementedError(
        fmt::format("policy {} has no seat on this node; use a build that has it everywhere", name));
  }
  return (*factory)(shard, pool);
}

}  // namespace tributary
