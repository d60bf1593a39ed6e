#include "gpu_worker/device/host/host_decode.h"

#include <algorithm>

#include "attention/merge.h"
#include "base/check.h"

namespace tributary {

HostDecode::HostDecode(const HostWeights& weights, const Rope& rope, const RowKernels& kernels,
                       const DeviceLimits& limits, ResidentCache& cache, ThreadPool& pool)
    : weights_(weights),
      rope_(rope),
      kernels_(kernels),
      limits_(limits),
      cache_(cache),
      pool_(pool),
      attention_(weights.config(), kernels, limits.max_batch, cache, pool),
      moe_(weights, kernels, 1),
      no_facets_(limits.max_batch) {
  const ModelConfig& config = weights.config();
  const size_t rows = limits.max_batch;
  const size_t slots = rows * limits.max_partial_slots;
  facets_.reserve(rows);
  hidden_.resize(rows * config.hidden_size);
  normed_.resize(rows * config.hidden_size);
  projected_.resize(rows * config.hidden_size);
  qkv_.resize(rows * (weights.q_dim() + 2 * weights.kv_dim()));
  q_.resize(rows * weights.q_dim());
  attended_.resize(rows * weights.q_dim());
  cos_.resize(rows * rope.angles_per_token());
  sin_.resize(rows * rope.angles_per_token());
  lse_ln_.resize(rows * config.attention.num_q_heads);
  kept_out_.resize(attended_.size());
  kept_lse_ln_.resize(lse_ln_.size());
  gate_up_.resize(rows * 2 * config.intermediate_size);
  logits_.resize(rows * config.vocab_size);
  slot_out_.resize(slots * weights.q_dim());
  slot_lse_ln_.resize(slots * config.attention.num_q_heads);
  partial_slots_ = {slot_out_, slot_lse_ln_, limits.max_partial_slots};
}

void HostDecode::BeginStep(std::span<const DecodeRow> rows) {
  TRIBUTARY_CHECK_GE(rows.size(), size_t{1});
  TRIBUTARY_CHECK_LE(rows.size(), size_t{limits_.max_batch});
  rows_ = rows;
  facets_.clear();
  attends_first_ = false;
  for (const DecodeRow& row : rows) {
    facets_.push_back(cache_.facet(row.resident));
    attends_first_ |= facets_.back() != nullptr && facets_.back()->query_follows_attention();
  }
  const size_t angles = rope_.angles_per_token();
  for (size_t r = 0; r < rows.size(); ++r) {
    weights_.Embed(rows[r].token, hidden_.data() + r * weights_.config().hidden_size);
    rope_.Angles(rows[r].pos, rows[r].pos + 1, cos_.data() + r * angles, sin_.data() + r * angles);
  }
}

void HostDecode::NormaliseRows(std::span<const float> weight) {
  const size_t hidden_size = weights_.config().hidden_size;
  if (weight.empty()) {
    std::copy_n(hidden_.data(), rows_.size() * hidden_size, normed_.data());
    return;
  }
  for (size_t r = 0; r < rows_.size(); ++r) {
    RmsNorm({hidden_.data() + r * hidden_size, hidden_size}, weight, weights_.eps(), normed_.data() + r * hidden_size);
  }
}

void HostDecode::AddToStream(const ResidualRule& rule) {
  const size_t hidden_size = weights_.config().hidden_size;
  for (size_t r = 0; r < rows_.size(); ++r) {
    AddBranch(rule, hidden_size, projected_.data() + r * hidden_size, hidden_.data() + r * hidden_size);
  }
}

std::span<const float> HostDecode::AwaitQuery(uint32_t layer) {
  const MatrixView& qkv = weights_.qkv(layer);
  NormaliseRows(weights_.layer(layer).attention_norm.span());
  MatVecEachRow(pool_, qkv, normed_.data(), qkv.in, rows_.size(), qkv_.data(), qkv.out);
  for (size_t r = 0; r < rows_.size(); ++r) FinishProjection(layer, r);
  if (attends_first_) Attend(layer);
  return std::span(q_).first(rows_.size() * weights_.q_dim());
}

void HostDecode::FinishProjection(uint32_t layer, size_t row_idx) {
  const HostLayer& w = weights_.layer(layer);
  const AttentionShape& shape = weights_.config().attention;
  const size_t q_dim = weights_.q_dim();
  const size_t kv_dim = weights_.kv_dim();
  const size_t angles = row_idx * rope_.angles_per_token();
  float* row = qkv_.data() + row_idx * (q_dim + 2 * kv_dim);
  AddBias(w.qkv_bias.span(), row);
  NormaliseHeads(weights_.config(), w.q_norm.span(), {row, q_dim});
  NormaliseHeads(weights_.config(), w.k_norm.span(), {row + q_dim, kv_dim});
  for (uint32_t head = 0; head < shape.num_q_heads + shape.num_kv_heads; ++head) {
    rope_.Rotate(weights_.config().layers[layer], cos_.data() + angles, sin_.data() + angles,
                 row + head * shape.head_dim);
  }
  std::copy_n(row, q_dim, q_.data() + row_idx * q_dim);

  const DecodeRow& decode = rows_[row_idx];
  const DType dtype = cache_.dtype(decode.resident);
  TRIBUTARY_CHECK_LT(decode.append_slot, cache_.capacity_tokens(decode.resident));
  const size_t vector_bytes = shape.head_dim * DTypeBytes(dtype);
  for (uint32_t head = 0; head < shape.num_kv_heads; ++head) {
    const float* k = row + q_dim + head * shape.head_dim;
    std::byte* k_slots = cache_.Slots(decode.resident, layer, ResidentCache::Kind::kKey, head);
    std::byte* v_slots = cache_.Slots(decode.resident, layer, ResidentCache::Kind::kValue, head);
    ConvertFromF32(dtype, k, shape.head_dim, k_slots + decode.append_slot * vector_bytes);
    ConvertFromF32(dtype, k + kv_dim, shape.head_dim, v_slots + decode.append_slot * vector_bytes);
  }
  HostFacet* const facet = FacetOf(row_idx, layer);
  if (facet == nullptr) return;
  const uint32_t shard_layer = weights_.layers().shard_layer(layer);
  facet->OnNewTokens(shard_layer, {decode.append_slot, decode.append_slot + 1});
  facet->OnQuery({decode, static_cast<uint32_t>(row_idx), shard_layer, {row, q_dim}});
}

HostFacet* HostDecode::FacetOf(size_t row_idx, uint32_t layer) const {
  return weights_.layers().is_windowed(layer) ? nullptr : facets_[row_idx];
}

void HostDecode::AttendResident(uint32_t layer) {
  if (!attends_first_) Attend(layer);
}

void HostDecode::Attend(uint32_t layer) {
  const bool windowed = weights_.layers().is_windowed(layer);
  attention_.Attend({.layer = layer,
                     .windowed = windowed,
                     .shard_layer = windowed ? 0 : weights_.layers().shard_layer(layer),
                     .rows = rows_,
                     .facets = std::span<HostFacet* const>(windowed ? no_facets_ : facets_).first(rows_.size()),
                     .sink_logits = weights_.layer(layer).sink_logits.span(),
                     .q = q_.data(),
                     .out = attended_.data(),
                     .lse_ln = lse_ln_.data()});
}

void HostDecode::MergeRow(size_t row_idx, uint32_t num_slots) {
  const size_t num_q_heads = weights_.config().attention.num_q_heads;
  const size_t head_dim = weights_.config().attention.head_dim;
  for (size_t head = 0; head < num_q_heads; ++head) {
    float* out = attended_.data() + (row_idx * num_q_heads + head) * head_dim;
    MergeState state;
    state.Fold(lse_ln_[row_idx * num_q_heads + head]);  // resident first: out stays as it is
    for (size_t slot = 0; slot < num_slots; ++slot) {
      const size_t partial = (row_idx * partial_slots_.max_slots + slot) * num_q_heads + head;
      const MergeWeights weights = state.Fold(partial_slots_.lse_ln[partial]);
      if (weights.keep == 1.0f && weights.add == 0.0f) continue;  // empty: its out may be anything
      const float* add = partial_slots_.out.data() + partial * head_dim;
      for (size_t d = 0; d < head_dim; ++d) out[d] = out[d] * weights.keep + add[d] * weights.add;
    }
    const float normaliser = state.Normaliser();
    for (size_t d = 0; d < head_dim; ++d) out[d] *= normaliser;
  }
}

void HostDecode::KeepResidentPartial(size_t row_idx) {
  const size_t q_dim = weights_.q_dim(), heads = weights_.config().attention.num_q_heads;
  std::copy_n(attended_.data() + row_idx * q_dim, q_dim, kept_out_.data() + row_idx * q_dim);
  std::copy_n(lse_ln_.data() + row_idx * heads, heads, kept_lse_ln_.data() + row_idx * heads);
}

ConstAttentionPartialView HostDecode::resident_partial(uint32_t row_idx) const {
  TRIBUTARY_CHECK_LT(row_idx, rows_.size());
  TRIBUTARY_CHECK(rows_[row_idx].wants_resident_partial);
  const size_t q_dim = weights_.q_dim(), heads = weights_.config().attention.num_q_heads;
  return {std::span(kept_out_).subspan(row_idx * q_dim, q_dim),
          std::span(kept_lse_ln_).subspan(row_idx * heads, heads)};
}

void HostDecode::FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) {
  TRIBUTARY_CHECK_EQ(num_slots.size(), rows_.size());
  const size_t rows = rows_.size();
  const size_t hidden_size = weights_.config().hidden_size;
  for (size_t r = 0; r < rows; ++r) {
    TRIBUTARY_CHECK_LE(num_slots[r], partial_slots_.max_slots);
    if (rows_[r].wants_resident_partial && !weights_.layers().is_windowed(layer)) KeepResidentPartial(r);
    MergeRow(r, num_slots[r]);
  }
  MatVecEachRow(pool_, weights_.o(layer), attended_.data(), weights_.q_dim(), rows, projected_.data(), hidden_size);
  AddToStream(weights_.attention_rule(layer));
  NormaliseRows(weights_.layer(layer).mlp_norm.span());
  Mlp(layer);
  AddToStream(weights_.mlp_rule(layer));
}

// Of normed_ into projected_.
void HostDecode::Mlp(uint32_t layer) {
  const size_t rows = rows_.size();
  const size_t hidden_size = weights_.config().hidden_size;
  const size_t intermediate = weights_.config().intermediate_size;
  if (weights_.config().layers[layer].is_moe) {
    moe_.RunEachToken(pool_, layer, normed_.data(), rows, projected_.data());
    return;
  }
  MatVecEachRow(pool_, weights_.gate_up(layer), normed_.data(), hidden_size, rows, gate_up_.data(), 2 * intermediate);
  for (size_t r = 0; r < rows; ++r) {
    float* gate = gate_up_.data() + r * 2 * intermediate;
    kernels_.activate(weights_.config().activation)(gate, gate + intermediate, intermediate);
  }
  MatVecEachRow(pool_, weights_.down(layer), gate_up_.data(), 2 * intermediate, rows, projected_.data(), hidden_size);
}

std::span<const float> HostDecode::EndStep() {
  NormaliseRows(weights_.final_norm());
  const MatrixView& lm_head = weights_.lm_head();
  MatVecEachRow(pool_, lm_head, normed_.data(), lm_head.in, rows_.size(), logits_.data(), lm_head.out);
  FinishLogits(weights_.config(), std::span(logits_).first(rows_.size() * lm_head.out));
  return std::span(logits_).first(rows_.size() * lm_head.out);
}

}  // namespace tributary
