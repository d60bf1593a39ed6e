#include "kv_store/shard_store.h"

#include <bit>
#include <utility>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<ShardStore>> ShardStore::Create(const ShardStoreOptions& options) {
  constexpr size_t kMinExtentBytes = 4096;
  constexpr size_t kMaxExtentBytes = size_t{1} << 31;  // the coordinator is told in 32 bits
  if (options.extent_bytes < kMinExtentBytes || options.extent_bytes > kMaxExtentBytes ||
      !std::has_single_bit(options.extent_bytes)) {
    return absl::InvalidArgumentError(fmt::format("extent_bytes is {}; it must be a power of two from {} to {}",
                                                  options.extent_bytes, kMinExtentBytes, kMaxExtentBytes));
  }
  if (options.arena.bytes < options.extent_bytes) {
    return absl::InvalidArgumentError(fmt::format("kv_pool_bytes is {}; it must hold at least one extent of {} bytes",
                                                  options.arena.bytes, options.extent_bytes));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(Arena arena, Arena::Create(options.arena));
  return std::unique_ptr<ShardStore>(new ShardStore(std::move(arena), options));
}

absl::StatusOr<std::shared_ptr<KvShard>> ShardStore::Open(const ShardSpec& spec) {
  if (const auto it = shards_.find(spec.shard_id); it != shards_.end()) {
    const ShardSpec& open = it->second->spec();
    if (open == spec) return it->second;
    return absl::AlreadyExistsError(
        fmt::format("shard {} is open for sequence {} at epoch {} with another spec; close it first, or take "
                    "another id",
                    spec.shard_id.value, open.sequence_id.value, open.epoch.value));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(std::shared_ptr<KvShard> shard, KvShard::Open(spec, &pool_, pack_, &counters_));
  const std::lock_guard lock(mutex_);
  shards_.emplace(spec.shard_id, shard);
  return shard;
}

absl::Status ShardStore::Close(ShardId id, Epoch epoch) {
  const auto it = shards_.find(id);
  if (it == shards_.end()) return absl::OkStatus();
  if (const Epoch current = it->second->spec().epoch; epoch < current) {
    return absl::FailedPreconditionError(fmt::format(
        "shard {} is of epoch {}, newer than {}: its placement has moved on", id.value, current.value, epoch.value));
  }
  Drop(id);
  return absl::OkStatus();
}

bool ShardStore::Drop(ShardId id) {
  const auto it = shards_.find(id);
  if (it == shards_.end()) return false;
  const std::shared_ptr<KvShard> dropped = it->second;  // its memory is given back without the lock
  dropped->RefuseStores();
  const std::lock_guard lock(mutex_);
  shards_.erase(it);
  return true;
}

KvShard* ShardStore::Find(ShardId id, Epoch epoch, StoreError* error) const {
  const auto it = shards_.find(id);
  *error = it == shards_.end()                 ? StoreError::kUnknownShard
           : it->second->spec().epoch != epoch ? StoreError::kStaleEpoch
                                               : StoreError::kOk;
  return *error == StoreError::kOk ? it->second.get() : nullptr;
}

StoreResult ShardStore::Store(ShardId id, Epoch epoch, uint32_t layer, TokenRange tokens, const KvExchangeRows& rows) {
  StoreError error = StoreError::kOk;
  KvShard* const shard = Find(id, epoch, &error);
  if (shard == nullptr) return {.error = error};
  return shard->Store(layer, tokens.begin, static_cast<uint32_t>(tokens.size()), rows);
}

StoreError ShardStore::OpenBulk(ShardId id, Epoch epoch, BulkVisibility visibility,
                                std::unique_ptr<BulkStorer>* storer) {
  std::shared_ptr<KvShard> shard;
  {
    const std::lock_guard lock(mutex_);
    const auto it = shards_.find(id);
    if (it == shards_.end()) return StoreError::kUnknownShard;
    if (it->second->spec().epoch != epoch) return StoreError::kStaleEpoch;
    shard = it->second;
  }
  *storer = std::make_unique<BulkStorer>(std::move(shard), visibility);
  return StoreError::kOk;
}

}  // namespace tributary
