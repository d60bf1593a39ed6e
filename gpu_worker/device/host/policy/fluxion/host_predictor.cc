#include "gpu_worker/device/host/policy/fluxion/host_predictor.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace tributary {
namespace {

double Norm(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += double{value} * double{value};
  return std::sqrt(sum);
}

uint64_t FloatsOfStream(const FacetSpec& spec) {
  return RemoteKeys::Floats(spec.max_context_tokens, spec.shape.head_dim);
}

}  // namespace

uint64_t HostPredictor::Bytes(const FacetSpec& spec) {
  return FloatsOfStream(spec) * spec.num_layers * spec.shape.num_kv_heads * sizeof(float);
}

HostPredictor::HostPredictor(const FacetSpec& spec, const HostFacetMemory& memory, BudgetPredictor predictor)
    : spec_(spec),
      read_kv_(memory.read_kv),
      predictor_(std::move(predictor)),
      past_(size_t{spec.num_layers} * spec.shape.num_q_heads) {
  const size_t floats = FloatsOfStream(spec);
  const std::span<float> all(reinterpret_cast<float*>(memory.parts[0].data()), memory.parts[0].size() / sizeof(float));
  for (size_t i = 0; i < size_t{spec.num_layers} * spec.shape.num_kv_heads; ++i) {
    streams_.push_back({.remote = RemoteKeys(all.subspan(i * floats, floats), spec.shape.head_dim)});
  }
  views_.resize(spec.shape.num_kv_heads);
}

// ---- tokens come and go ----

void HostPredictor::Unpack(std::span<const std::byte> from, std::vector<float>* to) const {
  to->resize(from.size() / DTypeBytes(spec_.kv_dtype));
  ConvertToF32(spec_.kv_dtype, from.data(), to->size(), to->data());
}

void HostPredictor::ReadSlots(uint32_t layer, SlotRange slots) {
  const size_t vectors = size_t{slots.end - slots.begin} * spec_.shape.num_kv_heads;
  k_bytes_.resize(vectors * spec_.shape.head_dim * DTypeBytes(spec_.kv_dtype));
  v_bytes_.resize(k_bytes_.size());
  read_kv_(layer, slots, {0, spec_.shape.num_kv_heads}, k_bytes_, v_bytes_);
  Unpack(k_bytes_, &k_);
  Unpack(v_bytes_, &v_);
}

std::span<const float> HostPredictor::VectorOf(const std::vector<float>& rows, size_t token, uint32_t kv_head) const {
  const size_t head_dim = spec_.shape.head_dim;
  return std::span(rows).subspan((token * spec_.shape.num_kv_heads + kv_head) * head_dim, head_dim);
}

void HostPredictor::OnNewTokens(uint32_t layer, SlotRange slots) {
  ReadSlots(layer, slots);
  for (uint32_t kv_head = 0; kv_head < spec_.shape.num_kv_heads; ++kv_head) {
    Stream& stream = StreamOf(layer, kv_head);
    for (uint32_t token = 0; token < slots.end - slots.begin; ++token) {
      stream.resident_norm_sum += Norm(VectorOf(v_, token, kv_head));
      ++stream.num_resident;
    }
  }
}

void HostPredictor::AddRemote(uint32_t layer) {
  const size_t tokens = k_.size() / spec_.shape.head_dim / spec_.shape.num_kv_heads;
  for (uint32_t kv_head = 0; kv_head < spec_.shape.num_kv_heads; ++kv_head) {
    RemoteKeys& remote = StreamOf(layer, kv_head).remote;
    for (size_t token = 0; token < tokens; ++token) {
      remote.Add(VectorOf(k_, token, kv_head), VectorOf(v_, token, kv_head));
    }
  }
}

void HostPredictor::OnPrompt(const HostPrompt& prompt) {
  Unpack(prompt.k, &k_);
  Unpack(prompt.v, &v_);
  AddRemote(prompt.layer);
}

void HostPredictor::OnLeaving(const LeavingBlock& block) {
  for (uint32_t layer = 0; layer < spec_.num_layers; ++layer) {
    for (const SlotRange slots : block.slots) {
      if (slots.begin == slots.end) continue;
      ReadSlots(layer, slots);
      AddRemote(layer);
      for (uint32_t kv_head = 0; kv_head < spec_.shape.num_kv_heads; ++kv_head) {
        Stream& stream = StreamOf(layer, kv_head);
        for (uint32_t token = 0; token < slots.end - slots.begin; ++token) {
          stream.resident_norm_sum -= Norm(VectorOf(v_, token, kv_head));
          --stream.num_resident;
        }
      }
    }
  }
}

// ---- a row of a step ----

void HostPredictor::OnQuery(const HostQuery& query) {
  Row& row = rows_[query.row_idx];
  row.decode = query.row;
  row.is_done = false;
  row.q.assign(query.q.begin(), query.q.end());
  row.heads.resize(spec_.shape.num_q_heads);
  if (query.layer == 0) row.last_layer.clear();
}

void HostPredictor::OnAttended(const HostAttention& attention) {
  Row& row = rows_.find(attention.row_idx)->second;
  uint64_t tokens = 0;
  for (const SlotRange& range : attention.row.attend) tokens += range.end - range.begin;
  const SlotRange& sinks = attention.row.attend[0];
  const uint32_t group_size = spec_.shape.group_size(), head_dim = spec_.shape.head_dim;
  for (uint32_t i = 0; i < group_size; ++i) {
    WeightSums sums(tokens, sinks.end - sinks.begin);
    for (const WeightRun& run : attention.weights) {
      const size_t slots = run.slots.end - run.slots.begin;
      sums.Add(run.weights.subspan(i * slots, slots));
    }
    row.heads[size_t{attention.kv_head} * group_size + i] = {
        .lse_ln = attention.lse_ln[i],
        .out_norm = Norm(attention.out.subspan(size_t{i} * head_dim, head_dim)),
        .weight_entropy = sums.entropy(),
        .sink_share = sums.sink_share(),
        .recent_share = sums.recent_share()};
  }
}

double HostPredictor::MeanValueNorm(uint32_t kv_head) const {
  const size_t tokens = v_.size() / spec_.shape.head_dim / spec_.shape.num_kv_heads;
  double sum = 0;
  for (size_t token = 0; token < tokens; ++token) sum += Norm(VectorOf(v_, token, kv_head));
  return tokens == 0 ? 0 : sum / static_cast<double>(tokens);
}

// Sinks stay where they are, so that once is enough.
void HostPredictor::FindSinks(const Row& row, uint32_t layer) {
  if (StreamOf(layer, 0).sink_value_norm >= 0) return;
  ReadSlots(layer, row.decode.attend[0]);
  for (uint32_t kv_head = 0; kv_head < spec_.shape.num_kv_heads; ++kv_head) {
    StreamOf(layer, kv_head).sink_value_norm = MeanValueNorm(kv_head);
  }
}

std::span<const PredictedBudget> HostPredictor::Budgets(const FacetQuery& query) {
  Row& row = rows_.find(query.row)->second;
  if (!row.is_done) Predict(query, &row);
  row.is_done = true;
  return row.budgets;
}

void HostPredictor::Predict(const FacetQuery& query, Row* row) {
  const uint32_t num_q_heads = spec_.shape.num_q_heads;
  FindSinks(*row, query.layer);
  for (uint32_t kv_head = 0; kv_head < spec_.shape.num_kv_heads; ++kv_head) {
    const Stream& stream = StreamOf(query.layer, kv_head);
    TRIBUTARY_CHECK_GT(stream.remote.num_tokens(), uint64_t{0});
    const double resident = stream.num_resident == 0 ? 0.0 : static_cast<double>(stream.num_resident);
    views_[kv_head] = {.remote = &stream.remote,
                       .resident_value_norm = resident == 0 ? 0.0 : stream.resident_norm_sum / resident,
                       .sink_value_norm = stream.sink_value_norm};
  }
  const LayerView view{.layer = query.layer,
                       .num_layers = spec_.num_layers,
                       .context_tokens = row->decode.pos + 1,
                       .remote_tokens = query.visible.size(),
                       .group_size = spec_.shape.group_size(),
                       .head_dim = spec_.shape.head_dim,
                       .softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec_.shape.head_dim))),
                       .q = row->q,
                       .heads = row->heads,
                       .kv_heads = views_,
                       .head_rates = predictor_.head_rates(query.layer),
                       .last_layer = row->last_layer};
  const std::span<HeadPast> past = std::span(past_).subspan(size_t{query.layer} * num_q_heads, num_q_heads);
  const std::span<const FluxionFeatures> features = features_.Compute(view, past);
  row->budgets.resize(num_q_heads);
  for (uint32_t head = 0; head < num_q_heads; ++head) row->budgets[head] = predictor_.Predict(features[head]);
  row->last_layer.assign(features_.group_masses().begin(), features_.group_masses().end());
}

}  // namespace tributary
