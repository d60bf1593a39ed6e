#include "cpu_attention_service/node/shard_registry.h"

#include <bit>
#include <utility>

#include "base/status.h"
#include "cpu_attention_service/policy/shard_policy_seats.h"
#include "fmt/format.h"
#include "kv_store/shard_needs.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<ShardRegistry>> ShardRegistry::Create(const ArenaOptions& arena_options,
                                                                     size_t extent_bytes, KvPackFn pack) {
  constexpr size_t kMinExtentBytes = 4096;
  constexpr size_t kMaxExtentBytes = size_t{1} << 31;  // the coordinator is told in 32 bits
  if (extent_bytes < kMinExtentBytes || extent_bytes > kMaxExtentBytes || !std::has_single_bit(extent_bytes)) {
    return absl::InvalidArgumentError(fmt::format("extent_bytes is {}; it must be a power of two from {} to {}",
                                                  extent_bytes, kMinExtentBytes, kMaxExtentBytes));
  }
  if (arena_options.bytes < extent_bytes) {
    return absl::InvalidArgumentError(fmt::format("kv_pool_bytes is {}; it must hold at least one extent of {} bytes",
                                                  arena_options.bytes, extent_bytes));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(Arena arena, Arena::Create(arena_options));
  return std::unique_ptr<ShardRegistry>(new ShardRegistry(std::move(arena), extent_bytes, pack));
}

absl::StatusOr<uint64_t> ShardRegistry::Open(const ShardSpec& spec) {
  if (const auto it = shards_.find(spec.shard_id); it != shards_.end()) {
    const ShardSpec& open = it->second->kv->spec();
    if (open == spec) return it->second->reserved_bytes();
    return absl::AlreadyExistsError(
        fmt::format("shard {} is open for sequence {} at epoch {} with another spec; close it first, or take "
                    "another id",
                    spec.shard_id.value, open.sequence_id.value, open.epoch.value));
  }
  auto shard = std::make_unique<NodeShard>();
  TRIBUTARY_ASSIGN_OR_RETURN(shard->kv, KvShard::Open(spec, &pool_, pack_));
  for (const BlockSummaryOptions& options : NeedsOf(spec).summaries) {
    TRIBUTARY_RETURN_IF_ERROR(shard->kv->KeepSummaries(options));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(shard->policy, OpenShardPolicy(shard->kv.get(), &pool_));
  const uint64_t reserved_bytes = shard->reserved_bytes();
  shards_.emplace(spec.shard_id, std::move(shard));
  return reserved_bytes;
}

absl::Status ShardRegistry::Close(ShardId id, Epoch epoch) {
  const auto it = shards_.find(id);
  if (it == shards_.end()) return absl::OkStatus();
  if (epoch < it->second->kv->spec().epoch) {
    return absl::FailedPreconditionError(
        fmt::format("shard {} is of epoch {}, newer than {}: its placement has moved on", id.value,
                    it->second->kv->spec().epoch.value, epoch.value));
  }
  shards_.erase(it);
  return absl::OkStatus();
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

std::vector<const NodeShard*> ShardRegistry::shards() const {
  std::vector<const NodeShard*> shards;
  shards.reserve(shards_.size());
  for (const auto& [id, shard] : shards_) shards.push_back(shard.get());
  return shards;
}

}  // namespace tributary
