// The shards that a node holds, in one arena reserved at start.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "cluster/shard_spec.h"
#include "cpu_attention_service/policy/shard_policy.h"
#include "kv_store/arena.h"
#include "kv_store/block_pool.h"
#include "kv_store/kv_shard.h"
#include "wire/frame.h"

namespace tributary {

// One shard on this node.
struct NodeShard {
  std::unique_ptr<KvShard> kv;
  std::unique_ptr<ShardPolicy> policy;  // null: every query reads everything. Destroyed before kv

  uint64_t reserved_bytes() const { return kv->reserved_bytes() + (policy == nullptr ? 0 : policy->reserved_bytes()); }
};

// Thread-compatible.
class ShardRegistry {
 public:
  // INVALID_ARGUMENT: extents that are no power of two of at least 4 KiB, or a pool smaller than
  // one. Else errors of Arena::Create.
  static absl::StatusOr<std::unique_ptr<ShardRegistry>> Create(const ArenaOptions& arena, size_t extent_bytes,
                                                               KvPackFn pack);

  // The reserved bytes. The same spec again is OK; ALREADY_EXISTS: the id with another spec; else
  // errors of KvShard::Open, KvShard::KeepSummaries and OpenShardPolicy.
  absl::StatusOr<uint64_t> Open(const ShardSpec& spec);
  // An unknown shard is OK. FAILED_PRECONDITION: the shard is of a newer epoch.
  absl::Status Close(ShardId id, Epoch epoch);
  bool Drop(ShardId id) { return shards_.erase(id) != 0; }

  // Null, with the reason in `error`: kUnknownShard, kStaleEpoch (any epoch but the shard's).
  NodeShard* Find(ShardId id, Epoch sequence_epoch, FrameError* error) const;

  uint64_t free_bytes() const { return pool_.free_bytes(); }
  uint64_t capacity_bytes() const { return pool_.capacity_bytes(); }
  const Arena& arena() const { return arena_; }
  size_t size() const { return shards_.size(); }
  std::vector<const NodeShard*> shards() const;

 private:
  ShardRegistry(Arena arena, size_t extent_bytes, KvPackFn pack)
      : arena_(std::move(arena)), pool_(arena_.memory(), extent_bytes), pack_(pack) {}

  Arena arena_;
  BlockPool pool_;
  const KvPackFn pack_;
  absl::flat_hash_map<ShardId, std::unique_ptr<NodeShard>> shards_;  // destroyed before the pool
};

}  // namespace tributary
