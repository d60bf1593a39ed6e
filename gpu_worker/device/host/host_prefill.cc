#include "gpu_worker/device/host/host_prefill.h"

#include <algorithm>
#include <new>

#include "absl/status/status.h"
#include "base/check.h"
#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/device/pack_heads.h"

namespace tributary {
namespace {

// Tokens of one matrix product: enough for the product to run at full speed, few enough for a chunk
// to occupy 8 threads.
constexpr size_t kTokenTile = 64;

size_t CeilDiv(size_t a, size_t b) { return (a + b - 1) / b; }

}  // namespace

HostPrefillShared::Scratch::Scratch(const HostWeights& weights, const RowKernels& kernels, const Rope& rope)
    : normed(kTokenTile * weights.config().hidden_size),
      branch(kTokenTile * weights.config().hidden_size),
      projected(kTokenTile * 2 * std::max(weights.kv_dim(), size_t{weights.config().intermediate_size})),
      cos(rope.angles_per_token()),
      sin(rope.angles_per_token()),
      attend(kQueryTileRows, weights.config().attention.head_dim),
      moe(weights, kernels, kTokenTile) {}

HostPrefillShared::HostPrefillShared(const HostWeights& host_weights, const Rope& rope_angles,
                                     const RowKernels& row_kernels, uint32_t max_tokens, ThreadPool& threads,
                                     ResidentCache& resident)
    : weights(host_weights),
      rope(rope_angles),
      kernels(row_kernels),
      max_prefill_tokens(max_tokens),
      pool(threads),
      cache(resident),
      q(kPrefillChunkTokens * weights.q_dim()),
      attended(kPrefillChunkTokens * weights.q_dim()),
      logits(weights.config().vocab_size) {
  for (int i = 0; i < pool.num_threads(); ++i) scratch.emplace_back(weights, kernels, rope);
}

uint64_t HostPrefill::Bytes(const ModelConfig& config, uint64_t num_tokens, DType kv_dtype) {
  const uint64_t kv_dim = uint64_t{config.attention.num_kv_heads} * config.attention.head_dim;
  const uint64_t stored_bytes = kv_dtype == DType::kF32 ? 0 : DTypeBytes(kv_dtype);
  return num_tokens * (config.hidden_size * sizeof(float) + 2 * kv_dim * (sizeof(float) + stored_bytes));
}

HostPrefill::HostPrefill(HostPrefillShared* shared, std::span<const uint32_t> tokens, DType kv_dtype)
    : shared_(*shared),
      weights_(shared->weights),
      kv_dtype_(kv_dtype),
      num_tokens_(tokens.size()),
      hidden_(tokens.size() * weights_.config().hidden_size),
      k_(tokens.size() * weights_.kv_dim()),
      v_(tokens.size() * weights_.kv_dim()) {
  if (kv_dtype != DType::kF32) {
    k_stored_ = AlignedBuffer<std::byte>(k_.size() * DTypeBytes(kv_dtype));
    v_stored_ = AlignedBuffer<std::byte>(v_.size() * DTypeBytes(kv_dtype));
  }
  for (size_t i = 0; i < tokens.size(); ++i) weights_.Embed(tokens[i], hidden(i));
}

absl::StatusOr<std::unique_ptr<Prefill>> HostPrefill::Begin(HostPrefillShared* shared, std::span<const uint32_t> tokens,
                                                            DType kv_dtype) {
  TRIBUTARY_RETURN_IF_ERROR(
      ValidatePrompt(tokens, kv_dtype, shared->max_prefill_tokens, shared->weights.config().vocab_size));
  try {
    return std::unique_ptr<Prefill>(new HostPrefill(shared, tokens, kv_dtype));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(
        fmt::format("no memory for a prefill of {} tokens: it takes {} bytes; send a shorter prompt", tokens.size(),
                    Bytes(shared->weights.config(), tokens.size(), kv_dtype)));
  }
}

void HostPrefill::Normalise(std::span<const float> weight, uint64_t token_begin, size_t count, Scratch& scratch) {
  const size_t hidden_size = weights_.config().hidden_size;
  if (weight.empty()) {
    std::copy_n(hidden(token_begin), count * hidden_size, scratch.normed.data());
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    RmsNorm({hidden(token_begin + i), hidden_size}, weight, weights_.eps(), scratch.normed.data() + i * hidden_size);
  }
}

void HostPrefill::AddProduct(const MatrixView& w, const float* x, size_t ld_x, const ResidualRule& rule,
                             uint64_t token_begin, size_t count, Scratch& scratch) {
  const size_t hidden_size = weights_.config().hidden_size;
  if (rule.is_plain()) {
    MatMul(w, x, ld_x, count, hidden(token_begin), hidden_size, true);
    for (size_t i = 0; i < count; ++i) AddBias(rule.bias, hidden(token_begin + i));
    return;
  }
  MatMul(w, x, ld_x, count, scratch.branch.data(), hidden_size, false);
  for (size_t i = 0; i < count; ++i) {
    AddBranch(rule, hidden_size, scratch.branch.data() + i * hidden_size, hidden(token_begin + i));
  }
}

void HostPrefill::Project(uint32_t layer, uint64_t token_begin, uint64_t token_end) {
  TRIBUTARY_CHECK_LE(token_begin, token_end);
  TRIBUTARY_CHECK_LE(token_end, num_tokens_);
  layer_ = layer;
  ForEachItem(shared_.pool, CeilDiv(token_end - token_begin, kTokenTile), [&](int thread_idx, size_t tile_idx) {
    const uint64_t begin = token_begin + tile_idx * kTokenTile;
    ProjectTile(layer, begin, std::min<uint64_t>(kTokenTile, token_end - begin),
                shared_.scratch[static_cast<size_t>(thread_idx)]);
  });
}

// K and V of some tokens into the layer buffer, rounded to the KV dtype before anybody reads them.
void HostPrefill::ProjectTile(uint32_t layer, uint64_t token_begin, size_t count, Scratch& scratch) {
  const HostLayer& w = weights_.layer(layer);
  const AttentionShape& shape = weights_.config().attention;
  const LayerSpec& spec = weights_.config().layers[layer];
  const size_t q_dim = weights_.q_dim();
  const size_t kv_dim = weights_.kv_dim();
  Normalise(w.attention_norm.span(), token_begin, count, scratch);
  float* kv = scratch.projected.data();
  MatMul(weights_.qkv(layer).Rows(q_dim, 2 * kv_dim), scratch.normed.data(), weights_.config().hidden_size, count, kv,
         2 * kv_dim, false);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t token = token_begin + i;
    float* k = kv + i * 2 * kv_dim;
    if (!w.qkv_bias.empty()) AddBias(w.qkv_bias.span().subspan(q_dim), k);
    NormaliseHeads(weights_.config(), w.k_norm.span(), {k, kv_dim});
    shared_.rope.Angles(token, num_tokens_, scratch.cos.data(), scratch.sin.data());
    for (uint32_t head = 0; head < shape.num_kv_heads; ++head) {
      shared_.rope.Rotate(spec, scratch.cos.data(), scratch.sin.data(), k + head * shape.head_dim);
    }
    float* k_row = k_.data() + token * kv_dim;
    float* v_row = v_.data() + token * kv_dim;
    std::copy_n(k, kv_dim, k_row);
    std::copy_n(k + kv_dim, kv_dim, v_row);
    if (kv_dtype_ == DType::kF32) continue;
    const size_t row_bytes = kv_dim * DTypeBytes(kv_dtype_);
    std::byte* k_stored = k_stored_.data() + token * row_bytes;
    std::byte* v_stored = v_stored_.data() + token * row_bytes;
    ConvertFromF32(kv_dtype_, k_row, kv_dim, k_stored);
    ConvertFromF32(kv_dtype_, v_row, kv_dim, v_stored);
    ConvertToF32(kv_dtype_, k_stored, kv_dim, k_row);
    ConvertToF32(kv_dtype_, v_stored, kv_dim, v_row);
  }
}

void HostPrefill::Attend(uint32_t layer, uint64_t token_begin, uint64_t token_end) {
  TRIBUTARY_CHECK_LE(token_begin, token_end);
  TRIBUTARY_CHECK_LE(token_end, num_tokens_);
  TRIBUTARY_CHECK_LE(token_end - token_begin, uint64_t{kPrefillChunkTokens});
  const bool is_last_layer = layer + 1 == weights_.config().num_layers;
  if (is_last_layer) token_begin = std::max(token_begin, num_tokens_ - 1);
  if (token_begin >= token_end) return;
  const size_t tokens = token_end - token_begin;
  const size_t q_dim = weights_.q_dim();

  ForEachItem(shared_.pool, CeilDiv(tokens, kTokenTile), [&](int thread_idx, size_t tile_idx) {
    const size_t begin = tile_idx * kTokenTile;
    QueryTile(layer, token_begin + begin, std::min(kTokenTile, tokens - begin), shared_.q.data() + begin * q_dim,
              shared_.scratch[static_cast<size_t>(thread_idx)]);
  });
  // The longest rows first: what is left at the end is short, so threads finish together.
  const size_t query_tiles = CeilDiv(tokens, kQueryTileRows);
  const size_t num_q_heads = weights_.config().attention.num_q_heads;
  ForEachItem(shared_.pool, query_tiles * num_q_heads, [&](int thread_idx, size_t item) {
    const size_t begin = (query_tiles - 1 - item / num_q_heads) * kQueryTileRows;
    AttendTile(layer, static_cast<uint32_t>(item % num_q_heads), token_begin + begin,
               std::min(kQueryTileRows, tokens - begin), shared_.q.data() + begin * q_dim,
               shared_.attended.data() + begin * q_dim, shared_.scratch[static_cast<size_t>(thread_idx)]);
  });
  ForEachItem(shared_.pool, CeilDiv(tokens, kTokenTile), [&](int thread_idx, size_t tile_idx) {
    const size_t begin = tile_idx * kTokenTile;
    FinishTile(layer, token_begin + begin, std::min(kTokenTile, tokens - begin),
               shared_.attended.data() + begin * q_dim, shared_.scratch[static_cast<size_t>(thread_idx)]);
  });
}

// q of some tokens, after norm and RoPE.
void HostPrefill::QueryTile(uint32_t layer, uint64_t token_begin, size_t count, float* q, Scratch& scratch) {
  const HostLayer& w = weights_.layer(layer);
  const AttentionShape& shape = weights_.config().attention;
  const LayerSpec& spec = weights_.config().layers[layer];
  const size_t q_dim = weights_.q_dim();
  Normalise(w.attention_norm.span(), token_begin, count, scratch);
  MatMul(weights_.qkv(layer).Rows(0, q_dim), scratch.normed.data(), weights_.config().hidden_size, count, q, q_dim,
         false);
  for (size_t i = 0; i < count; ++i) {
    float* row = q + i * q_dim;
    if (!w.qkv_bias.empty()) AddBias(w.qkv_bias.span().first(q_dim), row);
    NormaliseHeads(weights_.config(), w.q_norm.span(), {row, q_dim});
    shared_.rope.Angles(token_begin + i, num_tokens_, scratch.cos.data(), scratch.sin.data());
    for (uint32_t head = 0; head < shape.num_q_heads; ++head) {
      shared_.rope.Rotate(spec, scratch.cos.data(), scratch.sin.data(), row + head * shape.head_dim);
    }
  }
}

// Causal attention of one head's queries at [token_begin, token_begin + count), in the layer's window if it has one. q
// and out: [count][q_dim], all heads.
void HostPrefill::AttendTile(uint32_t layer, uint32_t q_head, uint64_t token_begin, size_t count, const float* q,
                             float* out, Scratch& scratch) {
  const ModelConfig& config = weights_.config();
  const size_t head_dim = config.attention.head_dim;
  const size_t kv_offset = q_head / config.attention.group_size() * head_dim;
  const size_t q_offset = q_head * head_dim;
  const uint64_t kv_end = token_begin + count;
  scratch.attend.Reset(count);
  // The first query sees the window that ends with itself, the others a window that begins later.
  const uint64_t window = config.layers[layer].sliding_window_tokens;
  const uint64_t first = window == 0 || window > token_begin ? 0 : token_begin + 1 - window;
  for (uint64_t begin = first / kKeyTileTokens * kKeyTileTokens; begin < kv_end; begin += kKeyTileTokens) {
    const size_t tokens = std::min<uint64_t>(kKeyTileTokens, kv_end - begin);
    const auto first_row_hidden =
        window == 0 ? kHidesNone : static_cast<ptrdiff_t>(token_begin + 1) - static_cast<ptrdiff_t>(window + begin);
    // Query i, at token_begin + i, sees the keys up to itself.
    const auto first_row_visible = static_cast<ptrdiff_t>(token_begin + 1) - static_cast<ptrdiff_t>(begin);
    scratch.attend.Attend(shared_.kernels, q + q_offset, weights_.q_dim(), ScoreRule(config),
                          {.k = k_.data() + begin * weights_.kv_dim() + kv_offset,
                           .v = v_.data() + begin * weights_.kv_dim() + kv_offset,
                           .ld = weights_.kv_dim(),
                           .tokens = tokens,
                           .first_row_visible = first_row_visible,
                           .first_row_hidden = first_row_hidden});
  }
  const std::span<const float> sink_logits = weights_.layer(layer).sink_logits.span();
  if (!sink_logits.empty()) scratch.attend.AddSink(sink_logits[q_head]);
  scratch.attend.Finish(out + q_offset, weights_.q_dim(), nullptr);
}

// Output projection and MLP of some tokens.
void HostPrefill::FinishTile(uint32_t layer, uint64_t token_begin, size_t count, const float* attended,
                             Scratch& scratch) {
  AddProduct(weights_.o(layer), attended, weights_.q_dim(), weights_.attention_rule(layer), token_begin, count,
             scratch);
  Normalise(weights_.layer(layer).mlp_norm.span(), token_begin, count, scratch);
  MlpTile(layer, token_begin, count, scratch);
}

void HostPrefill::MlpTile(uint32_t layer, uint64_t token_begin, size_t count, Scratch& scratch) {
  const size_t hidden_size = weights_.config().hidden_size;
  const size_t intermediate = weights_.config().intermediate_size;
  const ResidualRule rule = weights_.mlp_rule(layer);
  if (weights_.config().layers[layer].is_moe) {
    scratch.moe.RunTogether(layer, scratch.normed.data(), count, scratch.branch.data());
    for (size_t i = 0; i < count; ++i) {
      AddBranch(rule, hidden_size, scratch.branch.data() + i * hidden_size, hidden(token_begin + i));
    }
    return;
  }
  float* gate_up = scratch.projected.data();
  MatMul(weights_.gate_up(layer), scratch.normed.data(), hidden_size, count, gate_up, 2 * intermediate, false);
  for (size_t i = 0; i < count; ++i) {
    float* gate = gate_up + i * 2 * intermediate;
    shared_.kernels.activate(weights_.config().activation)(gate, gate + intermediate, intermediate);
  }
  AddProduct(weights_.down(layer), gate_up, 2 * intermediate, rule, token_begin, count, scratch);
}

HostPrefill::KvView HostPrefill::kv() const {
  if (kv_dtype_ == DType::kF32) return {std::as_bytes(k_.span()), std::as_bytes(v_.span())};
  return {k_stored_.span(), v_stored_.span()};
}

HostPrefill::KvView HostPrefill::kv(TokenRange tokens) const {
  TRIBUTARY_CHECK_LE(tokens.end, num_tokens_);
  const size_t row_bytes = weights_.kv_dim() * DTypeBytes(kv_dtype_);
  const KvView all = kv();
  return {all.k.subspan(tokens.begin * row_bytes, tokens.size() * row_bytes),
          all.v.subspan(tokens.begin * row_bytes, tokens.size() * row_bytes)};
}

void HostPrefill::Keep(uint32_t layer, ResidentId id, uint64_t token_begin, SlotRange slots) {
  ResidentCache& cache = shared_.cache;
  TRIBUTARY_CHECK_EQ(layer, layer_);
  TRIBUTARY_CHECK_LE(slots.begin, slots.end);
  TRIBUTARY_CHECK_LE(token_begin + (slots.end - slots.begin), num_tokens_);
  TRIBUTARY_CHECK_EQ(static_cast<int>(cache.dtype(id)), static_cast<int>(kv_dtype_));
  const KvView view = kv({token_begin, token_begin + (slots.end - slots.begin)});
  cache.Write(id, layer, ResidentCache::Kind::kKey, slots, view.k);
  cache.Write(id, layer, ResidentCache::Kind::kValue, slots, view.v);
  if (weights_.layers().is_windowed(layer)) return;
  if (HostFacet* const facet = cache.facet(id)) facet->OnNewTokens(weights_.layers().shard_layer(layer), slots);
}

std::unique_ptr<const SpillSections> HostPrefill::Leave(uint32_t layer, ResidentId id, TokenRange tokens) {
  TRIBUTARY_CHECK_EQ(layer, layer_);
  HostFacet* const facet = shared_.cache.facet(id);
  TRIBUTARY_CHECK(facet != nullptr);
  const KvView view = kv(tokens);
  return facet->OnPrompt({weights_.layers().shard_layer(layer), tokens, view.k, view.v});
}

CopyTicket HostPrefill::Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
                             std::span<std::byte> v) {
  const AttentionShape& shape = weights_.config().attention;
  const size_t head_bytes = shape.head_dim * DTypeBytes(kv_dtype_);
  const KvView view = kv({token_begin, token_begin + num_tokens});
  PackHeads(view.k, num_tokens, shape.num_kv_heads, head_bytes, heads, k);
  PackHeads(view.v, num_tokens, shape.num_kv_heads, head_bytes, heads, v);
  return 0;
}

std::span<const float> HostPrefill::End() {
  Scratch& scratch = shared_.scratch[0];
  Normalise(weights_.final_norm(), num_tokens_ - 1, 1, scratch);
  const size_t hidden_size = weights_.config().hidden_size;
  MatVecEachRow(shared_.pool, weights_.lm_head(), scratch.normed.data(), hidden_size, 1, shared_.logits.data(),
                shared_.logits.size());
  FinishLogits(weights_.config(), shared_.logits);
  return shared_.logits;
}

}  // namespace tributary
