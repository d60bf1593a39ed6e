// A Device of a few hundred lines: a tiny random transformer in plain loops. It rounds KV to its
// storage dtype, keeps every contract of device.h, and a row never sees the other rows of its
// batch. Policies have the host device's seats on it. For tests of what drives a device.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "attention/merge_all.h"
#include "base/aligned_buffer.h"
#include "base/check.h"
#include "fmt/format.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/host/policy/host_facet.h"
#include "gpu_worker/device/pack_heads.h"

namespace tributary {

struct TinyModel {
  AttentionShape shape{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
  uint32_t num_layers = 3;
  uint32_t hidden = 24;
  uint32_t vocab_size = 61;
  uint64_t seed = 1;

  float softmax_scale() const { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }
};

class TinyDevice : public Device {
 public:
  TinyDevice(const TinyModel& model, const DeviceLimits& limits) : model_(model), limits_(limits) {
    std::mt19937_64 random(model.seed);
    const size_t q_dim = size_t{model.shape.num_q_heads} * model.shape.head_dim;
    embed_ = Random(random, model.vocab_size, model.hidden, 1.0f);
    unembed_ = Random(random, model.vocab_size, model.hidden, 0.6f);
    for (uint32_t l = 0; l < model.num_layers; ++l) {
      layers_.push_back({Random(random, q_dim, model.hidden, 0.4f), Random(random, kv_dim(), model.hidden, 0.4f),
                         Random(random, kv_dim(), model.hidden, 0.4f), Random(random, model.hidden, q_dim, 0.3f),
                         Random(random, model.hidden, model.hidden, 0.2f)});
    }
    slots_.max_slots = limits.max_partial_slots;
    slot_out_.resize(size_t{limits.max_batch} * limits.max_partial_slots * q_dim);
    slot_lse_.resize(size_t{limits.max_batch} * limits.max_partial_slots * model.shape.num_q_heads);
    slots_.out = slot_out_;
    slots_.lse_ln = slot_lse_;
  }

  const DeviceLimits& limits() const override { return limits_; }
  DeviceMemory memory() const override { return {limits_.resident_pool_bytes, used_bytes_}; }
  uint64_t KvBytesPerToken(DType dtype) const override { return 2 * kv_dim() * DTypeBytes(dtype) * model_.num_layers; }

  absl::StatusOr<ResidentId> ReserveResident(const ResidentSpec& spec) override {
    const absl::StatusOr<HostFacetPlan> plan = HostFacetPlan::Make(spec, model_.shape, model_.num_layers, nullptr);
    if (!plan.ok()) return plan.status();
    const uint64_t bytes = spec.capacity_tokens * KvBytesPerToken(spec.kv_dtype);
    if (used_bytes_ + bytes > limits_.resident_pool_bytes) {
      return absl::ResourceExhaustedError(
          fmt::format("resident pool: {} bytes needed, {} free", bytes, limits_.resident_pool_bytes - used_bytes_));
    }
    used_bytes_ += bytes;
    const ResidentId id(++last_resident_);
    Resident& resident = residents_[id.value];
    resident.capacity = spec.capacity_tokens;
    resident.dtype = spec.kv_dtype;
    resident.bytes = bytes;
    // Garbage that would be noticed: NaN in each dtype.
    resident.k.assign(model_.num_layers,
                      std::vector<std::byte>(spec.capacity_tokens * row_bytes(spec.kv_dtype), std::byte{0xff}));
    resident.v = resident.k;
    std::vector<std::span<std::byte>> parts;
    for (const PolicyBytes& part : plan->parts()) {
      resident.parts.emplace_back(part.bytes);
      parts.push_back(resident.parts.back().span());
    }
    const auto read_kv = [this, id](uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                                    std::span<std::byte> v) {
      PackResident(residents_.at(id.value), layer, slots, heads, k, v);
    };
    absl::StatusOr<std::unique_ptr<HostFacet>> facet = plan->MakeFacet({parts, read_kv});
    if (!facet.ok()) {
      ReleaseResident(id);
      return facet.status();
    }
    resident.facet = *std::move(facet);
    return id;
  }
  PolicyFacet* facet(ResidentId id) override { return residents_.at(id.value).facet.get(); }
  void ReleaseResident(ResidentId id) override {
    TRIBUTARY_CHECK(residents_.count(id.value) == 1);
    used_bytes_ -= residents_[id.value].bytes;
    residents_.erase(id.value);
  }
  CopyTicket ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                          std::span<std::byte> v) override {
    PackResident(residents_.at(id.value), layer, slots, heads, k, v);
    return copies_take_time ? ++copies_started : 0;
  }
  bool CopyDone(CopyTicket ticket) override { return ticket <= copies_done; }

  void BeginStep(std::span<const DecodeRow> rows) override {
    TRIBUTARY_CHECK_LE(rows.size(), limits_.max_batch);
    rows_ = rows;
    x_.clear();
    attends_first_ = false;
    for (const DecodeRow& row : rows) {
      x_.push_back(Embed(row.token));
      const HostFacet* const facet = residents_.at(row.resident.value).facet.get();
      attends_first_ |= facet != nullptr && facet->query_follows_attention();
    }
    q_.assign(rows.size() * q_dim(), 0);
    resident_.assign(rows.size(), {});
  }
  std::span<const float> AwaitQuery(uint32_t layer) override {
    for (size_t r = 0; r < rows_.size(); ++r) {
      Resident& resident = residents_.at(rows_[r].resident.value);
      TRIBUTARY_CHECK_LT(rows_[r].append_slot, resident.capacity);
      const size_t at = rows_[r].append_slot * row_bytes(resident.dtype);
      const std::vector<float> q = Project(layer, x_[r], rows_[r].pos, resident.dtype, resident.k[layer].data() + at,
                                           resident.v[layer].data() + at);
      std::copy(q.begin(), q.end(), q_.begin() + r * q_dim());
      if (resident.facet == nullptr) continue;
      resident.facet->OnNewTokens(layer, {rows_[r].append_slot, rows_[r].append_slot + 1});
      resident.facet->OnQuery({rows_[r], static_cast<uint32_t>(r), layer, q});
    }
    if (attends_first_) AttendRows(layer);
    return q_;
  }
  void AttendResident(uint32_t layer) override {
    if (!attends_first_) AttendRows(layer);
  }
  PartialSlots& partial_slots() override { return slots_; }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) override {
    const size_t heads = model_.shape.num_q_heads;
    for (size_t r = 0; r < rows_.size(); ++r) {
      std::vector<ConstAttentionPartialView> partials = {{resident_[r].out, resident_[r].lse_ln}};
      for (size_t s = 0; s < num_slots[r]; ++s) {
        const size_t slot = r * slots_.max_slots + s;
        partials.emplace_back(slots_.out.subspan(slot * q_dim(), q_dim()), slots_.lse_ln.subspan(slot * heads, heads));
      }
      Partial merged{std::vector<float>(q_dim()), std::vector<float>(heads)};
      MergePartials(partials, model_.shape.head_dim, {merged.out, merged.lse_ln});
      FinishRow(layer, merged.out, &x_[r]);
    }
    finished_ = resident_;
  }
  ConstAttentionPartialView resident_partial(uint32_t row_idx) const override {
    TRIBUTARY_CHECK(rows_[row_idx].wants_resident_partial);
    return {finished_[row_idx].out, finished_[row_idx].lse_ln};
  }
  std::span<const float> EndStep() override {
    logits_.clear();
    for (const auto& x : x_) {
      const std::vector<float> row = Logits(x);
      logits_.insert(logits_.end(), row.begin(), row.end());
    }
    return logits_;
  }

  absl::StatusOr<std::unique_ptr<Prefill>> BeginPrefill(std::span<const uint32_t> tokens, DType dtype) override {
    if (fail_prefill) return absl::ResourceExhaustedError("no memory for the prefill");
    return std::make_unique<TinyPrefill>(this, tokens, dtype);
  }
  // Successive tokens of a prompt, as they are stored: [token][kv_head][head_dim]. For tests that watch.
  virtual void OnProjected(uint32_t layer, std::span<const std::byte> k, std::span<const std::byte> v) {}

  bool fail_prefill = false;
  // With copies_take_time, a copy is done when copies_done has reached its ticket.
  bool copies_take_time = false;
  CopyTicket copies_started = 0;
  CopyTicket copies_done = 0;
  int num_prefills() const { return num_prefills_; }

 private:
  using Vector = std::vector<float>;
  class TinyPrefill final : public Prefill {
   public:
    TinyPrefill(TinyDevice* device, std::span<const uint32_t> tokens, DType dtype)
        : device_(*device),
          dtype_(dtype),
          row_(device->row_bytes(dtype)),
          q_(tokens.size()),
          k_(tokens.size() * row_, std::byte{0xff}),
          v_(k_) {
      for (const uint32_t token : tokens) x_.push_back(device->Embed(token));
      ++device_.num_prefills_;
    }
    ~TinyPrefill() override { --device_.num_prefills_; }
    void Project(uint32_t layer, uint64_t begin, uint64_t end) override {
      for (uint64_t t = begin; t < end; ++t) {
        q_[t] = device_.Project(layer, x_[t], t, dtype_, k_.data() + t * row_, v_.data() + t * row_);
      }
      device_.OnProjected(layer, Rows(k_, begin, end), Rows(v_, begin, end));
    }
    void Attend(uint32_t layer, uint64_t begin, uint64_t end) override {
      std::vector<size_t> visible(begin);
      for (uint64_t t = 0; t < begin; ++t) visible[t] = t;
      for (uint64_t t = begin; t < end; ++t) {
        visible.push_back(t);
        const Partial partial = device_.Attend(q_[t].data(), visible, dtype_, k_.data(), v_.data());
        device_.FinishRow(layer, partial.out, &x_[t]);
      }
    }
    CopyTicket Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
                    std::span<std::byte> v) override {
      const uint64_t end = token_begin + num_tokens;
      device_.PackRows(Rows(k_, token_begin, end), num_tokens, dtype_, heads, k);
      device_.PackRows(Rows(v_, token_begin, end), num_tokens, dtype_, heads, v);
      return device_.copies_take_time ? ++device_.copies_started : 0;
    }
    void Keep(uint32_t layer, ResidentId id, uint64_t token_begin, SlotRange slots) override {
      Resident& resident = device_.residents_.at(id.value);
      const size_t bytes = (slots.end - slots.begin) * row_;
      TRIBUTARY_CHECK_LE(slots.end, resident.capacity);
      std::memcpy(resident.k[layer].data() + slots.begin * row_, k_.data() + token_begin * row_, bytes);
      std::memcpy(resident.v[layer].data() + slots.begin * row_, v_.data() + token_begin * row_, bytes);
      if (resident.facet != nullptr) resident.facet->OnNewTokens(layer, slots);
    }
    std::unique_ptr<const SpillSections> Leave(uint32_t layer, ResidentId id, TokenRange tokens) override {
      return device_.residents_.at(id.value).facet->OnPrompt(
          {layer, tokens, Rows(k_, tokens.begin, tokens.end), Rows(v_, tokens.begin, tokens.end)});
    }
    std::span<const float> End() override {
      logits_ = device_.Logits(x_.back());
      return logits_;
    }

   private:
    std::span<const std::byte> Rows(const std::vector<std::byte>& kv, uint64_t begin, uint64_t end) const {
      return std::span(kv).subspan(begin * row_, (end - begin) * row_);
    }

    TinyDevice& device_;
    const DType dtype_;
    const size_t row_;
    std::vector<Vector> x_, q_;
    std::vector<std::byte> k_, v_;
    Vector logits_;
  };
  struct Matrix {
    size_t rows, columns;
    Vector values;
  };
  struct Layer {
    Matrix wq, wk, wv, wo, mlp;
  };
  struct Resident {
    uint32_t capacity = 0;
    DType dtype = DType::kUnset;
    uint64_t bytes = 0;
    std::vector<std::vector<std::byte>> k, v;  // [layer], each [slot][kv_head][head_dim]
    std::vector<AlignedBuffer<std::byte>> parts;
    std::unique_ptr<HostFacet> facet;  // null: none
  };
  struct Partial {
    Vector out, lse_ln;
  };

  void PackRows(std::span<const std::byte> rows, uint32_t num_tokens, DType dtype, HeadRange heads,
                std::span<std::byte> packed) const {
    PackHeads(rows, num_tokens, model_.shape.num_kv_heads, model_.shape.head_dim * DTypeBytes(dtype), heads, packed);
  }
  static Matrix Random(std::mt19937_64& random, size_t rows, size_t columns, float scale) {
    std::normal_distribution<float> normal(0, scale);
    Matrix matrix{rows, columns, Vector(rows * columns)};
    for (float& value : matrix.values) value = normal(random);
    return matrix;
  }
  static Vector Multiply(const Matrix& m, const Vector& x) {
    Vector y(m.rows, 0.0f);
    for (size_t r = 0; r < m.rows; ++r) {
      for (size_t c = 0; c < m.columns; ++c) y[r] += m.values[r * m.columns + c] * x[c];
    }
    return y;
  }
  static Vector Normalised(const Vector& x) {
    float squares = 1e-6f;
    for (const float value : x) squares += value * value / static_cast<float>(x.size());
    Vector y = x;
    for (float& value : y) value /= std::sqrt(squares);
    return y;
  }
  size_t q_dim() const { return size_t{model_.shape.num_q_heads} * model_.shape.head_dim; }
  size_t kv_dim() const { return size_t{model_.shape.num_kv_heads} * model_.shape.head_dim; }
  size_t row_bytes(DType dtype) const { return kv_dim() * DTypeBytes(dtype); }

  Vector Embed(uint32_t token) const {
    const auto begin = embed_.values.begin() + token * model_.hidden;
    return {begin, begin + model_.hidden};
  }
  Vector Logits(const Vector& x) const { return Multiply(unembed_, Normalised(x)); }

  void Rotate(Vector& heads, uint64_t pos) const {
    const size_t dim = model_.shape.head_dim, half = dim / 2;
    for (size_t head = 0; head < heads.size(); head += dim) {
      for (size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(pos) * std::pow(10000.0, -static_cast<double>(i) / half);
        const auto c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
        const float a = heads[head + i], b = heads[head + half + i];
        heads[head + i] = a * c - b * s;
        heads[head + half + i] = b * c + a * s;
      }
    }
  }
  Vector Project(uint32_t layer, const Vector& x, uint64_t pos, DType dtype, std::byte* k_row, std::byte* v_row) const {
    const Vector normalised = Normalised(x);
    Vector q = Multiply(layers_[layer].wq, normalised);
    Vector k = Multiply(layers_[layer].wk, normalised);
    const Vector v = Multiply(layers_[layer].wv, normalised);
    Rotate(q, pos);
    Rotate(k, pos);
    ConvertFromF32(dtype, k.data(), k.size(), k_row);
    ConvertFromF32(dtype, v.data(), v.size(), v_row);
    return q;
  }
  void AttendRows(uint32_t layer) {
    for (size_t r = 0; r < rows_.size(); ++r) {
      Resident& resident = residents_.at(rows_[r].resident.value);
      std::vector<size_t> slots;
      for (const SlotRange& range : rows_[r].attend) {
        for (size_t slot = range.begin; slot < range.end; ++slot) slots.push_back(slot);
      }
      resident_[r] =
          Attend(q_.data() + r * q_dim(), slots, resident.dtype, resident.k[layer].data(), resident.v[layer].data());
      if (resident.facet != nullptr) ShowAttention(*resident.facet, layer, r);
    }
  }
  // What Attend() left in last_weights_, cut into runs of slots.
  void ShowAttention(HostFacet& facet, uint32_t layer, size_t r) const {
    const DecodeRow& row = rows_[r];
    const uint32_t group = model_.shape.group_size();
    const size_t group_dim = size_t{group} * model_.shape.head_dim;
    for (uint32_t kv_head = 0; kv_head < model_.shape.num_kv_heads; ++kv_head) {
      std::vector<Vector> weights;
      std::vector<WeightRun> runs;
      size_t first = 0;
      for (const SlotRange& range : row.attend) {
        for (uint32_t begin = range.begin; begin < range.end && facet.wants_weights_of(row); begin += kMaxRunSlots) {
          const uint32_t end = std::min(begin + kMaxRunSlots, range.end);
          Vector& of_run = weights.emplace_back();
          for (uint32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            const auto from = last_weights_[head].begin() + static_cast<std::ptrdiff_t>(first);
            of_run.insert(of_run.end(), from, from + (end - begin));
          }
          runs.push_back({{begin, end}, of_run});
          first += end - begin;
        }
      }
      facet.OnAttended({.row = row,
                        .row_idx = static_cast<uint32_t>(r),
                        .layer = layer,
                        .kv_head = kv_head,
                        .q = std::span(q_).subspan(r * q_dim() + kv_head * group_dim, group_dim),
                        .out = std::span(resident_[r].out).subspan(kv_head * group_dim, group_dim),
                        .lse_ln = std::span(resident_[r].lse_ln).subspan(size_t{kv_head} * group, group),
                        .weights = runs});
    }
  }
  void PackResident(const Resident& resident, uint32_t layer, SlotRange slots, HeadRange heads, std::span<std::byte> k,
                    std::span<std::byte> v) const {
    const size_t row = row_bytes(resident.dtype);
    TRIBUTARY_CHECK_LE(slots.end, resident.capacity);
    const uint32_t num_tokens = slots.end - slots.begin;
    PackRows(std::span(resident.k[layer]).subspan(slots.begin * row, num_tokens * row), num_tokens, resident.dtype,
             heads, k);
    PackRows(std::span(resident.v[layer]).subspan(slots.begin * row, num_tokens * row), num_tokens, resident.dtype,
             heads, v);
  }
  Partial Attend(const float* q, const std::vector<size_t>& rows, DType dtype, const std::byte* k,
                 const std::byte* v) const {
    const size_t dim = model_.shape.head_dim;
    Partial partial{Vector(q_dim(), 0.0f), Vector(model_.shape.num_q_heads, kEmptyLse)};
    Vector kv(kv_dim());
    std::vector<Vector> scores(model_.shape.num_q_heads, Vector(rows.size()));
    Vector max(model_.shape.num_q_heads, -INFINITY), sum(model_.shape.num_q_heads, 0.0f);
    for (size_t i = 0; i < rows.size(); ++i) {
      ConvertToF32(dtype, k + rows[i] * row_bytes(dtype), kv_dim(), kv.data());
      for (size_t head = 0; head < scores.size(); ++head) {
        const float* key = kv.data() + head / model_.shape.group_size() * dim;
        float dot = 0;
        for (size_t d = 0; d < dim; ++d) dot += q[head * dim + d] * key[d];
        scores[head][i] = dot * model_.softmax_scale();
        max[head] = std::max(max[head], scores[head][i]);
      }
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      ConvertToF32(dtype, v + rows[i] * row_bytes(dtype), kv_dim(), kv.data());
      for (size_t head = 0; head < scores.size(); ++head) {
        const float weight = std::exp(scores[head][i] - max[head]);
        sum[head] += weight;
        const float* value = kv.data() + head / model_.shape.group_size() * dim;
        for (size_t d = 0; d < dim; ++d) partial.out[head * dim + d] += weight * value[d];
      }
    }
    last_weights_ = scores;
    for (size_t head = 0; head < scores.size() && !rows.empty(); ++head) {
      for (float& weight : last_weights_[head]) weight = std::exp(weight - max[head]) / sum[head];
      partial.lse_ln[head] = max[head] + std::log(sum[head]);
      for (size_t d = 0; d < dim; ++d) partial.out[head * dim + d] /= sum[head];
    }
    return partial;
  }
  void FinishRow(uint32_t layer, const Vector& attention, Vector* x) const {
    const Vector projected = Multiply(layers_[layer].wo, attention);
    for (size_t i = 0; i < x->size(); ++i) (*x)[i] += projected[i];
    const Vector mlp = Multiply(layers_[layer].mlp, Normalised(*x));
    for (size_t i = 0; i < x->size(); ++i) (*x)[i] += std::tanh(mlp[i]);
  }

  const TinyModel model_;
  const DeviceLimits limits_;
  Matrix embed_, unembed_;
  std::vector<Layer> layers_;
  std::map<uint32_t, Resident> residents_;
  uint32_t last_resident_ = 0;
  uint64_t used_bytes_ = 0;

  std::span<const DecodeRow> rows_;
  std::vector<Vector> x_;
  Vector q_, logits_;
  bool attends_first_ = false;
  std::vector<Partial> resident_;
  std::vector<Partial> finished_;             // of the layer last finished
  mutable std::vector<Vector> last_weights_;  // [head][token]
  PartialSlots slots_;
  Vector slot_out_, slot_lse_;

  int num_prefills_ = 0;
};

}  // namespace tributary
