#include "gpu_worker/device/host/resident_attention.h"

#include <algorithm>

#include "attention/merge.h"
#include "base/check.h"
#include "gpu_worker/device/host/matmul.h"

namespace tributary {
namespace {

// Below some 20 us of attention, waking threads costs more than it saves.
constexpr size_t kMinSharedWork = size_t{1} << 18;
// Pieces of one row and KV head: enough for 16 threads and one head, few enough for merging to cost nothing.
constexpr uint32_t kMaxPieces = 16;
constexpr uint32_t kMinTilesPerPiece = 2;

uint32_t CeilDiv(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

uint32_t NumTiles(const SlotRange& range) {
  return CeilDiv(range.end - range.begin, static_cast<uint32_t>(kKeyTileTokens));
}

std::span<const SlotRange> AttendedBy(const DecodeRow& row, bool windowed) {
  return windowed ? row.attend_windowed : row.attend;
}

// Calls attend(slots) for the tiles [begin, end) of a row: each range is cut from its first slot on.
template <typename Attend>
void ForEachTile(std::span<const SlotRange> ranges, uint32_t begin, uint32_t end, const Attend& attend) {
  uint32_t first = 0;  // tile of the range
  for (const SlotRange& range : ranges) {
    const uint32_t tiles = NumTiles(range);
    for (uint32_t tile = std::max(begin, first); tile < std::min(end, first + tiles); ++tile) {
      const auto slot = static_cast<uint32_t>(range.begin + (tile - first) * kKeyTileTokens);
      attend(SlotRange{slot, std::min(slot + static_cast<uint32_t>(kKeyTileTokens), range.end)});
    }
    first += tiles;
  }
}

}  // namespace

ResidentAttention::ResidentAttention(const ModelConfig& config, const RowKernels& kernels, uint32_t max_batch,
                                     ResidentCache& cache, ThreadPool& pool)
    : shape_(config.attention),
      score_rule_(config),
      kernels_(kernels),
      cache_(cache),
      pool_(pool),
      num_pieces_(max_batch),
      tiles_per_piece_(max_batch),
      piece_out_(size_t{max_batch} * kMaxPieces * shape_.num_q_heads * shape_.head_dim),
      piece_lse_ln_(size_t{max_batch} * kMaxPieces * shape_.num_q_heads) {
  for (int i = 0; i < pool.num_threads(); ++i) scratch_.emplace_back(shape_);
  items_.reserve(size_t{max_batch} * kMaxPieces * shape_.num_kv_heads);
}

void ResidentAttention::PrepareWeights(uint32_t capacity_tokens) {
  for (Scratch& scratch : scratch_) scratch.weights.Reserve(capacity_tokens);
}

// Returns the tokens that the row attends over.
size_t ResidentAttention::PlanRow(const Batch& batch, uint32_t row_idx) {
  const DecodeRow& row = batch.rows[row_idx];
  size_t tokens = 0;
  uint32_t tiles = 0;
  for (const SlotRange& range : AttendedBy(row, batch.windowed)) {
    TRIBUTARY_CHECK_LE(range.begin, range.end);
    TRIBUTARY_CHECK_LE(range.end, cache_.capacity_tokens(row.resident));
    tokens += range.end - range.begin;
    tiles += NumTiles(range);
  }
  const uint32_t per_piece = std::max(kMinTilesPerPiece, CeilDiv(tiles, kMaxPieces));
  const uint32_t pieces = std::max(1u, CeilDiv(tiles, per_piece));
  tiles_per_piece_[row_idx] = per_piece;
  num_pieces_[row_idx] = pieces;
  // A facet that wants weights gets them from one thread, in token order.
  const HostFacet* const facet = batch.facets[row_idx];
  const bool keeps_weights = facet != nullptr && facet->wants_weights_of(row);
  for (uint32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    for (uint32_t piece = 0; piece < (keeps_weights ? 1 : pieces); ++piece) {
      items_.push_back({row_idx, kv_head, piece});
    }
  }
  return tokens;
}

void ResidentAttention::Attend(const Batch& batch) {
  TRIBUTARY_CHECK_LE(batch.rows.size(), num_pieces_.size());
  items_.clear();
  size_t tokens = 0;
  for (uint32_t row_idx = 0; row_idx < batch.rows.size(); ++row_idx) tokens += PlanRow(batch, row_idx);
  const auto attend = [&](int thread_idx, size_t item) {
    AttendItem(batch, items_[item], scratch_[static_cast<size_t>(thread_idx)]);
  };
  if (tokens * shape_.num_q_heads * shape_.head_dim * 2 < kMinSharedWork) {
    for (size_t item = 0; item < items_.size(); ++item) attend(0, item);
  } else {
    ForEachItem(pool_, items_.size(), attend);
  }
  // What was cut among threads is put together here.
  for (const Item& item : items_) {
    if (item.piece + 1 == num_pieces_[item.row_idx] && item.piece != 0) {
      FinishKvHead(batch, item.row_idx, item.kv_head, nullptr);
    }
  }
}

void ResidentAttention::AttendItem(const Batch& batch, const Item& item, Scratch& scratch) {
  const HostFacet* const facet = batch.facets[item.row_idx];
  const uint32_t pieces = num_pieces_[item.row_idx];
  if (facet != nullptr && facet->wants_weights_of(batch.rows[item.row_idx])) {
    scratch.weights.Begin();
    for (uint32_t piece = 0; piece < pieces; ++piece) {
      AttendPiece(batch, {item.row_idx, item.kv_head, piece}, scratch, true);
    }
    FinishKvHead(batch, item.row_idx, item.kv_head, &scratch);
    return;
  }
  AttendPiece(batch, item, scratch, false);
  if (pieces == 1) FinishKvHead(batch, item.row_idx, item.kv_head, nullptr);
}

size_t ResidentAttention::PieceIdx(const Item& item) const {
  return (size_t{item.row_idx} * shape_.num_kv_heads + item.kv_head) * kMaxPieces + item.piece;
}

void ResidentAttention::AttendPiece(const Batch& batch, const Item& item, Scratch& scratch, bool keeps_weights) {
  const DecodeRow& row = batch.rows[item.row_idx];
  const size_t group = shape_.group_size();
  const float* const q = batch.q + (item.row_idx * shape_.num_q_heads + item.kv_head * group) * size_t{shape_.head_dim};
  const DType dtype = cache_.dtype(row.resident);
  const size_t vector_bytes = shape_.head_dim * DTypeBytes(dtype);
  const std::byte* const k = cache_.Slots(row.resident, batch.layer, ResidentCache::Kind::kKey, item.kv_head);
  const std::byte* const v = cache_.Slots(row.resident, batch.layer, ResidentCache::Kind::kValue, item.kv_head);
  const uint32_t first_tile = item.piece * tiles_per_piece_[item.row_idx];
  scratch.attend.Reset(group);
  ForEachTile(AttendedBy(row, batch.windowed), first_tile, first_tile + tiles_per_piece_[item.row_idx],
              [&](const SlotRange& slots) {
                scratch.attend.AttendStored(kernels_, q, shape_.head_dim, score_rule_,
                                            {.k = k + slots.begin * vector_bytes,
                                             .v = v + slots.begin * vector_bytes,
                                             .dtype = dtype,
                                             .tokens = slots.end - slots.begin});
                if (keeps_weights) scratch.weights.AddTile(scratch.attend, slots);
              });
  const size_t piece_idx = PieceIdx(item);
  scratch.attend.Finish(piece_out_.data() + piece_idx * group * shape_.head_dim, shape_.head_dim,
                        piece_lse_ln_.data() + piece_idx * group);
}

void ResidentAttention::MergePieces(uint32_t row_idx, size_t first_piece, size_t head, float* out, float* lse_ln) {
  const size_t group = shape_.group_size(), head_dim = shape_.head_dim;
  MergeState state;
  state.Fold(*lse_ln);
  for (uint32_t piece = 1; piece < num_pieces_[row_idx]; ++piece) {
    const size_t partial = (first_piece + piece) * group + head;
    const MergeWeights weights = state.Fold(piece_lse_ln_[partial]);
    const float* const add = piece_out_.data() + partial * head_dim;
    for (size_t d = 0; d < head_dim; ++d) out[d] = out[d] * weights.keep + add[d] * weights.add;
  }
  *lse_ln = state.LseLn();
  for (size_t d = 0; d < head_dim; ++d) out[d] *= state.Normaliser();
}

void ResidentAttention::FinishKvHead(const Batch& batch, uint32_t row_idx, uint32_t kv_head, Scratch* scratch) {
  const size_t group = shape_.group_size(), head_dim = shape_.head_dim;
  const size_t first_head = row_idx * shape_.num_q_heads + kv_head * group;
  const size_t first_piece = PieceIdx({row_idx, kv_head, 0});
  for (size_t head = 0; head < group; ++head) {
    float* const out = batch.out + (first_head + head) * head_dim;
    std::copy_n(piece_out_.data() + (first_piece * group + head) * head_dim, head_dim, out);
    float* const lse_ln = batch.lse_ln + first_head + head;
    *lse_ln = piece_lse_ln_[first_piece * group + head];
    if (num_pieces_[row_idx] != 1) MergePieces(row_idx, first_piece, head, out, lse_ln);
    if (batch.sink_logits.empty()) continue;
    const float factor = FoldSink(batch.sink_logits[kv_head * group + head], lse_ln);
    for (size_t d = 0; d < head_dim; ++d) out[d] *= factor;
  }
  HostFacet* const facet = batch.facets[row_idx];
  if (facet == nullptr) return;
  const std::span<const float> lse_ln(batch.lse_ln + first_head, group);
  facet->OnAttended(
      {.row = batch.rows[row_idx],
       .row_idx = row_idx,
       .layer = batch.shard_layer,
       .kv_head = kv_head,
       .q = {batch.q + first_head * head_dim, group * head_dim},
       .out = {batch.out + first_head * head_dim, group * head_dim},
       .lse_ln = lse_ln,
       .weights = scratch == nullptr ? std::span<const WeightRun>() : scratch->weights.Finish(lse_ln.data())});
}

}  // namespace tributary
