#include "cpu_attention_service/node/shard_registry.h"

#include <utility>

#include "base/status.h"
#include "cpu_attention_service/policy/shard_policy_seats.h"
#include "kv_store/shard_needs.h"

namespace tributary {

// What the policy keeps beside K and V.
absl::Status ShardRegistry::OpenPolicy(NodeShard& shard) {
  for (const BlockSummaryOptions& options : NeedsOf(shard.kv->spec()).summaries) {
    TRIBUTARY_RETURN_IF_ERROR(shard.kv->KeepSummaries(options));
  }
  for (const KeyCodeOptions& options : NeedsOf(shard.kv->spec()).key_codes) {
    TRIBUTARY_RETURN_IF_ERROR(shard.kv->KeepCodes(options));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(shard.policy, OpenShardPolicy(shard.kv.get(), store_->pool()));
  if (shard.policy != nullptr) shard.fallback = std::make_unique<ShardFallback>(shard.kv->spec());
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> ShardRegistry::Open(const ShardSpec& spec, const WorkerIdentity& worker) {
  TRIBUTARY_ASSIGN_OR_RETURN(std::shared_ptr<KvShard> kv, store_->Open(spec));
  if (const auto it = shards_.find(spec.shard_id); it != shards_.end()) {
    it->second->granted_to = worker;
    return it->second->reserved_bytes();
  }
  auto shard = std::make_unique<NodeShard>();
  shard->kv = std::move(kv);
  shard->granted_to = worker;
  if (const absl::Status status = OpenPolicy(*shard); !status.ok()) {
    store_->Drop(spec.shard_id);
    return status;
  }
  const uint64_t reserved_bytes = shard->reserved_bytes();
  shards_.emplace(spec.shard_id, std::move(shard));
  return reserved_bytes;
}

absl::Status ShardRegistry::Close(ShardId id, Epoch epoch) {
  TRIBUTARY_RETURN_IF_ERROR(store_->Close(id, epoch));
  shards_.erase(id);
  return absl::OkStatus();
}

bool ShardRegistry::Drop(ShardId id) {
  shards_.erase(id);
  return store_->Drop(id);
}

NodeShard* ShardRegistry::Find(ShardId id, Epoch sequence_epoch, FrameError* error) const {
  const auto it = shards_.find(id);
  if (it == shards_.end()) {
    *error = FrameError::kUnknownShard;
    return nullptr;
  }
  if (it->second->kv->spec().epoch != sequence_epoch) {
    *error = FrameError::kStaleEpoch;
    return nullptr;
  }
  *error = FrameError::kOk;
  return it->second.get();
}

bool ShardRegistry::MayUse(const WorkerIdentity& worker, ShardId id) const {
  const auto it = shards_.find(id);
  return it == shards_.end() || it->second->granted_to == worker;
}

std::vector<const NodeShard*> ShardRegistry::shards() const {
  std::vector<const NodeShard*> shards;
  shards.reserve(shards_.size());
  for (const auto& [id, shard] : shards_) shards.push_back(shard.get());
  return shards;
}

}  // namespace tributary
