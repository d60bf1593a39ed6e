// A forward pass of the plain Llama family in f64, straight from the definition: what every device must agree with.
// Slow. The other families are checked against golden files (tests/golden).
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "model/safetensors.h"
#include "model/weights.h"

namespace tributary {

class ReferenceModel {
 public:
  // Keys and values are rounded to `kv_dtype` before anything reads them.
  ReferenceModel(const ModelWeights& weights, DType kv_dtype) : weights_(weights), kv_dtype_(kv_dtype) {}

  // Logits of every position, [token][vocab].
  std::vector<std::vector<double>> Logits(std::span<const uint32_t> tokens) const {
    const std::vector<double> table = Read(weights_.embedding);
    std::vector<Row> hidden;
    for (const uint32_t token : tokens) {
      const auto begin = table.begin() + static_cast<ptrdiff_t>(token * size_t{config().hidden_size});
      hidden.emplace_back(begin, begin + config().hidden_size);
    }
    for (const LayerWeights& layer : weights_.layers) {
      AddAttention(layer, hidden);
      AddMlp(layer, hidden);
    }
    const std::vector<double> lm_head = Read(weights_.lm_head);
    const std::vector<double> norm = Read(weights_.final_norm);
    std::vector<Row> logits;
    for (const Row& row : hidden) logits.push_back(Multiply(lm_head, Normalised(row, norm)));
    return logits;
  }

 private:
  using Row = std::vector<double>;

  const ModelConfig& config() const { return weights_.config; }

  static Row Read(const TensorView* tensor) {
    if (tensor == nullptr) return {};
    const std::vector<float> values = *ReadF32(*tensor);
    return Row(values.begin(), values.end());
  }

  static Row Multiply(const Row& matrix, const Row& x) {
    Row y(matrix.size() / x.size());
    for (size_t i = 0; i < y.size(); ++i) {
      for (size_t j = 0; j < x.size(); ++j) y[i] += matrix[i * x.size() + j] * x[j];
    }
    return y;
  }

  Row Normalised(const Row& x, const Row& weight) const {
    double sum = 0;
    for (const double value : x) sum += value * value;
    const double factor = 1 / std::sqrt(sum / static_cast<double>(x.size()) + config().rms_norm_eps);
    Row y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * factor * weight[i];
    return y;
  }

  // Projection with bias; norm and rotation per head where `norm` and `pos` say so.
  Row Heads(const Row& x, const TensorView* matrix, const TensorView* bias, const TensorView* norm, size_t pos,
            bool rotate) const {
    Row y = Multiply(Read(matrix), x);
    const Row b = Read(bias);
    for (size_t i = 0; i < b.size(); ++i) y[i] += b[i];
    const size_t dim = config().attention.head_dim;
    const std::vector<float> frequencies = RopeInverseFrequencies(config().ropes[0], config().rotary_dim, 0);
    for (size_t head = 0; head < y.size() / dim; ++head) {
      Row h(y.begin() + static_cast<ptrdiff_t>(head * dim), y.begin() + static_cast<ptrdiff_t>((head + 1) * dim));
      if (norm != nullptr) h = Normalised(h, Read(norm));
      for (size_t i = 0; rotate && i < dim / 2; ++i) {
        const double angle = static_cast<float>(pos) * frequencies[i];
        const double a = h[i];
        const double c = h[i + dim / 2];
        h[i] = a * std::cos(angle) - c * std::sin(angle);
        h[i + dim / 2] = c * std::cos(angle) + a * std::sin(angle);
      }
      std::copy(h.begin(), h.end(), y.begin() + static_cast<ptrdiff_t>(head * dim));
    }
    return y;
  }

  void Round(Row& row) const {
    for (double& value : row) {
      const float f32 = static_cast<float>(value);
      float stored = f32;
      if (kv_dtype_ == DType::kBf16) stored = ToFloat(FromFloat<bf16_t>(f32));
      if (kv_dtype_ == DType::kF16) stored = ToFloat(FromFloat<f16_t>(f32));
      value = kv_dtype_ == DType::kF32 ? value : stored;
    }
  }

  void AddAttention(const LayerWeights& w, std::vector<Row>& hidden) const {
    std::vector<Row> k;
    std::vector<Row> v;
    const Row norm = Read(w.attention_norm);
    const Row o = Read(w.o);
    const Row o_bias = Read(w.o_bias);
    for (size_t pos = 0; pos < hidden.size(); ++pos) {
      const Row x = Normalised(hidden[pos], norm);
      k.push_back(Heads(x, w.k, w.k_bias, w.k_norm, pos, true));
      v.push_back(Heads(x, w.v, w.v_bias, nullptr, pos, false));
      Round(k.back());
      Round(v.back());
      const Row y = Multiply(o, Attend(Heads(x, w.q, w.q_bias, w.q_norm, pos, true), k, v));
      for (size_t i = 0; i < y.size(); ++i) hidden[pos][i] += y[i] + (o_bias.empty() ? 0 : o_bias[i]);
    }
  }

  Row Attend(const Row& q, const std::vector<Row>& k, const std::vector<Row>& v) const {
    const size_t dim = config().attention.head_dim;
    Row out(q.size());
    for (size_t head = 0; head < config().attention.num_q_heads; ++head) {
      const size_t offset = head / config().attention.group_size() * dim;
      Row p(k.size());
      double sum = 0;
      for (size_t t = 0; t < k.size(); ++t) {
        for (size_t d = 0; d < dim; ++d) p[t] += q[head * dim + d] * k[t][offset + d];
        p[t] = std::exp(p[t] / std::sqrt(static_cast<double>(dim)));
        sum += p[t];
      }
      for (size_t t = 0; t < k.size(); ++t) {
        for (size_t d = 0; d < dim; ++d) out[head * dim + d] += p[t] / sum * v[t][offset + d];
      }
    }
    return out;
  }

  void AddMlp(const LayerWeights& w, std::vector<Row>& hidden) const {
    const Row norm = Read(w.mlp_norm);
    const Row gate_matrix = Read(w.gate);
    const Row up_matrix = Read(w.up);
    const Row down_matrix = Read(w.down);
    for (Row& row : hidden) {
      const Row x = Normalised(row, norm);
      Row gate = Multiply(gate_matrix, x);
      const Row up = Multiply(up_matrix, x);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
      const Row y = Multiply(down_matrix, gate);
      for (size_t i = 0; i < y.size(); ++i) row[i] += y[i];
    }
  }

  const ModelWeights& weights_;
  const DType kv_dtype_;
};

}  // namespace tributary
