#include "kv_store/layer_tokens.h"

#include <algorithm>

#include "attention/kv/kv_tile_layout.h"
#include "base/check.h"

namespace tributary {
namespace {

TokenRange TilesOf(TokenRange tokens) { return {tokens.begin / kKvTileTokens, KvTilesFor(tokens.end)}; }

TokenRange TokensOfTile(uint64_t tile) { return {tile * kKvTileTokens, (tile + 1) * kKvTileTokens}; }

// Whether any token of the tile is stored.
bool HasTokens(const StoredRanges& stored, uint64_t tile) {
  uint64_t num_missing = 0;
  stored.ForEachMissing(TokensOfTile(tile), [&](TokenRange missing) { num_missing += missing.size(); });
  return num_missing < kKvTileTokens;
}

}  // namespace

StoreError LayerTokens::Claim(TokenRange tokens, Storer storer, StoreClaim* claim) {
  claim->tokens = tokens;
  claim->tiles = TilesOf(tokens);
  claim->storer = storer;
  claim->missing.clear();
  const std::lock_guard lock(mutex_);
  if (IsClaimed(claim->tiles)) return StoreError::kBusy;
  if (!stored_.CanInsert(tokens, claims_.size())) return StoreError::kExhausted;
  stored_.ForEachMissing(tokens, [&](TokenRange missing) {
    claim->missing.push_back({.tokens = missing,
                              .first_tile_has_tokens = HasTokens(stored_, missing.begin / kKvTileTokens),
                              .last_tile_has_tokens = HasTokens(stored_, (missing.end - 1) / kKvTileTokens)});
  });
  const uint64_t visible = visible_.load(std::memory_order_relaxed);
  if (storer != Storer::kOwner && visible % kKvTileTokens != 0) {
    const TokenRange shared = TokensOfTile(visible / kKvTileTokens);
    for (const StoreClaim::Missing& run : claim->missing) {
      if (!Intersect(run.tokens, shared).empty()) return StoreError::kNeedsOwner;
    }
  }
  claims_.push_back(claim->tiles);
  return StoreError::kOk;
}

void LayerTokens::Commit(const StoreClaim& claim) {
  const std::lock_guard lock(mutex_);
  EndClaim(claim);
  stored_.Insert(claim.tokens);
  Show(claim.storer);
}

void LayerTokens::Abandon(const StoreClaim& claim) {
  const std::lock_guard lock(mutex_);
  EndClaim(claim);
}

bool LayerTokens::IsEmpty() const {
  const std::lock_guard lock(mutex_);
  return stored_.prefix_tokens() == 0 && stored_.num_ranges() == 0 && claims_.empty();
}

void LayerTokens::Hold() {
  const std::lock_guard lock(mutex_);
  ++num_holds_;
}

void LayerTokens::EndHold() {
  const std::lock_guard lock(mutex_);
  TRIBUTARY_CHECK_GT(num_holds_, 0u);
  --num_holds_;
}

void LayerTokens::Publish() {
  const std::lock_guard lock(mutex_);
  Show(Storer::kOwner);
}

bool LayerTokens::IsClaimed(TokenRange tiles) const {
  return std::any_of(claims_.begin(), claims_.end(),
                     [&](TokenRange claimed) { return !Intersect(claimed, tiles).empty(); });
}

void LayerTokens::EndClaim(const StoreClaim& claim) {
  const auto it = std::find(claims_.begin(), claims_.end(), claim.tiles);
  TRIBUTARY_CHECK(it != claims_.end());
  claims_.erase(it);
}

// Also of the owner whole tiles alone, if somebody is just adding to the last one.
void LayerTokens::Show(Storer storer) {
  if (num_holds_ > 0) return;
  uint64_t end = stored_.prefix_tokens();
  const uint64_t last_tile = end / kKvTileTokens;
  if (storer != Storer::kOwner || IsClaimed({last_tile, last_tile + 1})) end = last_tile * kKvTileTokens;
  if (end > visible_.load(std::memory_order_relaxed)) visible_.store(end, std::memory_order_release);
}

}  // namespace tributary
