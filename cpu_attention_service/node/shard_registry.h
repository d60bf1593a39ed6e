// The shards that a node attends over: those of its ShardStore, and beside each what its policy keeps, and the worker
// whose frames may name it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "cluster/shard_spec.h"
#include "cluster/worker_identity.h"
#include "cpu_attention_service/policy/shard_fallback.h"
#include "cpu_attention_service/policy/shard_policy.h"
#include "kv_store/kv_shard.h"
#include "kv_store/shard_store.h"
#include "wire/frame.h"

namespace tributary {

// One shard on this node.
struct NodeShard {
  std::shared_ptr<KvShard> kv;              // the store's
  std::unique_ptr<ShardPolicy> policy;      // null: every query reads everything. Destroyed before kv
  std::unique_ptr<ShardFallback> fallback;  // null without a policy
  WorkerIdentity granted_to;

  uint64_t reserved_bytes() const { return kv->reserved_bytes() + (policy == nullptr ? 0 : policy->reserved_bytes()); }
};

// Thread-compatible: the store's owner.
class ShardRegistry {
 public:
  explicit ShardRegistry(std::unique_ptr<ShardStore> store) : store_(std::move(store)) {}

  // Opens the shard as ShardStore does, with what its policy keeps; returns the reserved bytes. Has also the errors of
  // KvShard::KeepSummaries and OpenShardPolicy. The shard is granted to the worker, if it was there already, too; on
  // errors nothing changes.
  absl::StatusOr<uint64_t> Open(const ShardSpec& spec, const WorkerIdentity& worker);
  absl::Status Close(ShardId id, Epoch epoch);
  bool Drop(ShardId id);

  // Null, with the reason in `error`: kUnknownShard, kStaleEpoch (any epoch but the shard's).
  NodeShard* Find(ShardId id, Epoch sequence_epoch, FrameError* error) const;

  // False if the shard is granted to another worker, or to another run of this one. Of a shard that is not here, Find()
  // has more to say.
  bool MayUse(const WorkerIdentity& worker, ShardId id) const;

  ShardStore& store() { return *store_; }
  const ShardStore& store() const { return *store_; }
  size_t size() const { return shards_.size(); }
  std::vector<const NodeShard*> shards() const;

 private:
  absl::Status OpenPolicy(NodeShard& shard);

  const std::unique_ptr<ShardStore> store_;
  absl::flat_hash_map<ShardId, std::unique_ptr<NodeShard>> shards_;  // destroyed before the store
};

}  // namespace tributary
