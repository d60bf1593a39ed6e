#include "kv_store/bulk_storer.h"

#include <algorithm>
#include <utility>

#include "base/dtype.h"

namespace tributary {
namespace {

// So that a tile is never claimed for long. Whole tiles.
constexpr uint64_t kMaxPieceTokens = 16 * kKvTileTokens;

// The rows of `count` tokens from the call's token `skip` on.
KvExchangeRows SliceRows(const ShardSpec& spec, const KvExchangeRows& rows, uint64_t skip, uint64_t count) {
  const size_t elements = size_t{spec.num_kv_heads_held()} * spec.model.head_dim;
  const size_t k_bytes = elements * DTypeBytes(rows.k_dtype);
  const size_t v_bytes = elements * DTypeBytes(rows.v_dtype);
  return {rows.k.subspan(skip * k_bytes, count * k_bytes), rows.v.subspan(skip * v_bytes, count * v_bytes),
          rows.k_dtype, rows.v_dtype};
}

}  // namespace

BulkStorer::BulkStorer(std::shared_ptr<KvShard> shard, BulkVisibility visibility)
    : shard_(std::move(shard)), visibility_(visibility) {
  if (visibility_ == BulkVisibility::kWhenPublished) shard_->Hold();
}

// What of the tokens can be stored in one go: no more than a claim should have, and either all or none in a tile that
// is visible in part.
BulkStorer::Piece BulkStorer::NextPiece(uint32_t layer, TokenRange local) const {
  const uint64_t visible = shard_->stored_tokens(layer);
  const uint64_t shared_begin = visible / kKvTileTokens * kKvTileTokens;
  const TokenRange shared = visible == shared_begin ? TokenRange{} : TokenRange{visible, shared_begin + kKvTileTokens};
  const uint64_t max_end = (local.begin / kMaxPieceTokens + 1) * kMaxPieceTokens;
  Piece piece{.local = {local.begin, std::min(local.end, max_end)}};
  if (shared.Contains({local.begin, local.begin + 1})) {
    return {.local = Intersect(piece.local, shared), .is_owners = true};
  }
  if (!Intersect(piece.local, shared).empty()) piece.local.end = shared.begin;
  return piece;
}

StoreResult BulkStorer::Store(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows) {
  TokenRange local;
  const StoreError error = shard_->CheckCall(layer, token_begin, num_tokens, rows, &local);
  if (error != StoreError::kOk) return {.error = error};
  StoreResult total;
  for (TokenRange rest = local; !rest.empty();) {
    const Piece piece = NextPiece(layer, rest);
    const uint64_t skip = piece.local.begin - local.begin;
    const auto count = static_cast<uint32_t>(piece.local.size());
    const KvExchangeRows slice = SliceRows(shard_->spec(), rows, skip, count);
    if (piece.is_owners) {
      Keep(layer, token_begin + skip, count, slice);
    } else {
      const StoreResult stored = shard_->Store(layer, token_begin + skip, count, slice, Storer::kOthers);
      if (stored.error == StoreError::kNeedsOwner) continue;  // the owner has just made more visible
      if (!stored.ok()) return stored;
      total.new_tokens += stored.new_tokens;
    }
    rest.begin = piece.local.end;
  }
  total.stored_tokens = shard_->stored_tokens(layer);
  return total;
}

void BulkStorer::Keep(uint32_t layer, uint64_t token_begin, uint32_t num_tokens, const KvExchangeRows& rows) {
  Kept kept{layer, token_begin, num_tokens, rows.k_dtype, rows.v_dtype, {}, {}};
  kept.k.assign(rows.k.begin(), rows.k.end());
  kept.v.assign(rows.v.begin(), rows.v.end());
  const std::lock_guard lock(mutex_);
  kept_.push_back(std::move(kept));
  has_kept_.store(true, std::memory_order_release);
}

StoreResult BulkStorer::StoreKept() {
  StoreResult total;
  const std::lock_guard lock(mutex_);
  while (!kept_.empty()) {
    const Kept& kept = kept_.back();
    const KvExchangeRows rows{kept.k, kept.v, kept.k_dtype, kept.v_dtype};
    const StoreResult stored = shard_->Store(kept.layer, kept.token_begin, kept.num_tokens, rows);
    if (!stored.ok()) return stored;
    total.new_tokens += stored.new_tokens;
    kept_.pop_back();
  }
  has_kept_.store(false, std::memory_order_release);
  return total;
}

void BulkStorer::Publish() {
  if (visibility_ == BulkVisibility::kWhenPublished) shard_->EndHold();
  shard_->Publish();
}

}  // namespace tributary
