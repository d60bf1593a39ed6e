// Storing in bulk beside attention: KV that another system computed, a range that is built anew, an import. Rows come
// in any order, from any thread, and become visible as they come or when all of them are there.
//
//   BulkStorer storer(shard, BulkVisibility::kWhenPublished);
//   storer.Store(...);  // many, on any threads
//   storer.Publish();   // now attention sees them
//
// The thread that attends waits for nothing here. What it alone may do, adding tokens to a tile that it reads already,
// is kept for it; that happens only where the range begins in the middle of a tile that was visible before.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.h"
#include "kv_store/kv_shard.h"

namespace tributary {

enum class BulkVisibility : uint8_t {
  kAtOnce,         // whole tiles as soon as there is no gap before them
  kWhenPublished,  // nothing of the shard, whoever stores it, until then
};

// Thread-safe, but for StoreKept(): the shard's owner calls that.
class BulkStorer {
 public:
  // Keeps the shard's memory, even if it is closed: then stores are refused with kUnknownShard.
  BulkStorer(std::shared_ptr<KvShard> shard, BulkVisibility visibility);
  // What was not published stays invisible: close the shard, or store all of it again and publish.
  ~BulkStorer() = default;
  BulkStorer(const BulkStorer&) = delete;
  BulkStorer& operator=(const BulkStorer&) = delete;

  const KvShard& shard() const { return *shard_; }

  // Does what KvShard::Store does, but long ranges are stored piece by piece, and so not all or nothing: after an
  // error, store the same again, or give up. kBusy: another thread is storing into one of the tiles; try again.
  StoreResult Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows);

  // Tokens kept for the owner, at most 63 a call of Store().
  bool has_kept() const { return has_kept_.load(std::memory_order_acquire); }
  // Stores them. The first error ends it; what is left is kept. Owner only.
  StoreResult StoreKept();

  // Everything that is stored without a gap becomes visible. Call it once, after the last Store() and StoreKept().
  void Publish();

 private:
  struct Kept {
    uint32_t layer = 0;
    uint64_t token_begin = 0;
    uint32_t num_tokens = 0;
    DType k_dtype = DType::kUnset;
    DType v_dtype = DType::kUnset;
    std::vector<std::byte> k;
    std::vector<std::byte> v;
  };
  // A part of a call's tokens, in stripe-local numbers.
  struct Piece {
    TokenRange local;
    bool is_owners = false;
  };
  Piece NextPiece(uint32_t layer, TokenRange local) const;
  void Keep(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows);

  const std::shared_ptr<KvShard> shard_;
  const BulkVisibility visibility_;
  Mutex mutex_;
  std::vector<Kept> kept_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> has_kept_{false};
};

}  // namespace tributary
