// The shards that a node attends over: those of its ShardStore, and beside each what its policy keeps.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "cluster/shard_spec.h"
#include "cpu_attention_service/policy/shard_policy.h"
#include "kv_store/kv_shard.h"
#include "kv_store/shard_store.h"
#include "wire/frame.h"

namespace tributary {

// One shard on this node.
struct NodeShard {
  std::shared_ptr<KvShard> kv;          // the store's
  std::unique_ptr<ShardPolicy> policy;  // null: every query reads everything. Destroyed before kv

  uint64_t reserved_bytes() const { return kv->reserved_bytes() + (policy == nullptr ? 0 : policy->reserved_bytes()); }
};

// Thread-compatible: the store's owner.
class ShardRegistry {
 public:
  explicit ShardRegistry(std::unique_ptr<ShardStore> store) : store_(std::move(store)) {}

  // Opens the shard as ShardStore does, with what its policy keeps; returns the reserved bytes. Has also the errors of
  // KvShard::KeepSummaries and OpenShardPolicy.
  absl::StatusOr<uint64_t> Open(const ShardSpec& spec);
  absl::Status Close(ShardId id, Epoch epoch);
  bool Drop(ShardId id);

  // Null, with the reason in `error`: kUnknownShard, kStaleEpoch (any epoch but the shard's).
  NodeShard* Find(ShardId id, Epoch sequence_epoch, FrameError* error) const;

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
