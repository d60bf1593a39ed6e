// Which tokens of one layer of a shard are stored, which are being stored, and how many of them readers may see. In
// stripe-local token numbers.
//
// Whoever stores claims the tiles that its tokens touch, writes them without any lock, and commits: then the tokens are
// stored, and the prefix without gaps becomes visible. Two threads never have claims on one tile.
//
// Readers take no lock: they read one number. What they see, and the tiles that it lies in, changes no more, but for
// the last tile when that is not full: only the owner, the thread that also reads, may add tokens to it. So that others
// seldom have to, they make whole tiles visible alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "attention/token_range.h"
#include "base/mutex.h"
#include "kv_store/store_result.h"
#include "kv_store/stored_ranges.h"

namespace tributary {

// Who stores.
enum class Storer : uint8_t {
  kOwner,   // the thread that opens and closes shards and lets kernels read them
  kOthers,  // any other
};

// Tokens in the course of being stored.
struct StoreClaim {
  // A maximal run of tokens that are not stored yet. The tile of its first (last) token may have others' tokens, if the
  // run does not fill it.
  struct Missing {
    TokenRange tokens;
    bool first_tile_has_tokens = false;
    bool last_tile_has_tokens = false;
  };
  TokenRange tokens;  // asked for
  TokenRange tiles;   // that they touch: nobody else writes to these
  Storer storer = Storer::kOwner;
  absl::InlinedVector<Missing, 4> missing;

  uint64_t num_missing() const {
    uint64_t tokens_missing = 0;
    for (const Missing& run : missing) tokens_missing += run.tokens.size();
    return tokens_missing;
  }
};

// Thread-safe.
class LayerTokens {
 public:
  // Tokens from 0 on that readers may read. Everything that was written to them before is seen, too.
  uint64_t visible() const { return visible_.load(std::memory_order_acquire); }

  // kBusy, kExhausted, kNeedsOwner; kOk: `claim` is filled, and Commit() or Abandon() must follow.
  StoreError Claim(TokenRange tokens, Storer storer, StoreClaim* claim);
  // The claimed tokens are stored.
  void Commit(const StoreClaim& claim);
  // Nothing was written.
  void Abandon(const StoreClaim& claim);

  // Nothing is stored nor claimed.
  bool IsEmpty() const;

  // From Hold() to as many EndHold() nothing more becomes visible.
  void Hold();
  void EndHold();
  // Shows the whole prefix, not only whole tiles.
  void Publish();

 private:
  // True if some of them are claimed.
  bool IsClaimed(TokenRange tiles) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EndClaim(const StoreClaim& claim) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Show(Storer storer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::atomic<uint64_t> visible_{0};  // written with mutex_ held
  mutable Mutex mutex_;
  StoredRanges stored_ ABSL_GUARDED_BY(mutex_);
  std::vector<TokenRange> claims_ ABSL_GUARDED_BY(mutex_);  // of tiles
  uint32_t num_holds_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tributary
