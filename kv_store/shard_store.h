// The shards that a process holds, in one arena reserved at start: an attention service, a store server, whoever takes
// in KV. Knows neither frames nor policies.
//
// One thread, the owner, opens, closes, finds and reads shards, and takes no lock for it. Any other may store in bulk
// (bulk_storer.h); neither waits for the other.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "base/mutex.h"
#include "cluster/shard_spec.h"
#include "kv_store/arena.h"
#include "kv_store/block_pool.h"
#include "kv_store/bulk_storer.h"
#include "kv_store/kv_shard.h"

namespace tributary {

struct ShardStoreOptions {
  ArenaOptions arena;
  size_t extent_bytes = 512 << 10;
  KvPackFn pack = &PackKvPlain;  // a faster one comes with the CPU kernels
};

// The owner's, but for what says otherwise.
class ShardStore {
 public:
  using Shards = std::map<ShardId, std::shared_ptr<KvShard>>;

  // INVALID_ARGUMENT: extents that are no power of two of at least 4 KiB, or a pool smaller than
  // one. Else errors of Arena::Create.
  static absl::StatusOr<std::unique_ptr<ShardStore>> Create(const ShardStoreOptions& options);
  // REQUIRES: nobody has a shard or a BulkStorer any more.
  ~ShardStore() = default;

  // Reserves the shard's memory. The same spec again is OK and gives the same shard; ALREADY_EXISTS: the id with
  // another spec; else errors of KvShard::Open.
  absl::StatusOr<std::shared_ptr<KvShard>> Open(const ShardSpec& spec);
  // An unknown shard is OK. FAILED_PRECONDITION: the shard is of a newer epoch. Its memory is free when those who store
  // into it just now are done.
  absl::Status Close(ShardId id, Epoch epoch);
  // Closes it whatever its epoch: an orphan, to which no live sequence refers. False if unknown.
  bool Drop(ShardId id);

  // Null, with the reason in `error`: kUnknownShard, kStaleEpoch (any epoch but the shard's).
  KvShard* Find(ShardId id, Epoch epoch, StoreError* error) const;
  // KvShard::Store of that shard.
  StoreResult Store(ShardId id, Epoch epoch, uint32_t layer, TokenRange tokens, const KvExchangeRows& rows);
  const Shards& shards() const { return shards_; }

  // Any thread. Errors: kUnknownShard, kStaleEpoch.
  StoreError OpenBulk(ShardId id, Epoch epoch, BulkVisibility visibility, std::unique_ptr<BulkStorer>* storer);
  const StoreCounters& counters() const { return counters_; }
  uint64_t free_bytes() const { return pool_.free_bytes(); }
  uint64_t capacity_bytes() const { return pool_.capacity_bytes(); }

  const Arena& arena() const { return arena_; }
  // What is reserved beside a shard comes from here, too: rows that a policy caches.
  BlockPool* pool() { return &pool_; }

 private:
  ShardStore(Arena arena, const ShardStoreOptions& options)
      : arena_(std::move(arena)), pool_(arena_.memory(), options.extent_bytes), pack_(options.pack) {}
  std::shared_ptr<KvShard> Get(ShardId id, Epoch epoch, StoreError* error) const;

  Arena arena_;
  BlockPool pool_;
  const KvPackFn pack_;
  StoreCounters counters_;
  // Changed by the owner alone, with mutex_ held: it reads without, the others with it. Destroyed before the pool.
  Mutex mutex_;
  Shards shards_;
};

}  // namespace tributary
