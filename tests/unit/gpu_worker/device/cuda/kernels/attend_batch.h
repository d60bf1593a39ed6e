// Ragged batches for tests of what attends over resident slots, and their attention in f64.
#pragma once

#include <algorithm>
#include <map>
#include <span>

#include "gpu_worker/device/cuda/kernels/attend.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {

inline constexpr uint32_t kLayers = 2;

struct Case {
  KvGeometry geometry;
  DType dtype;
  std::vector<uint32_t> row_tokens;  // 0: nothing to attend over
  SplitRule rule;
  float soft_cap = 0;
};

// A batch with its KV on the device; slots that no row attends over hold NaN. Every other row wants its scores.
struct Batch {
  Batch(const Case& c, std::mt19937_64& random) : c(c), q(RandomQuery(c, random)) {
    for (const uint32_t tokens : c.row_tokens) AddRow(tokens, random);
    for (size_t r = 0; r < rows.size(); r += 2) AddScores(r);
    device_rows = DeviceArray<DecodeRowDesc>(rows);
    q_device = DeviceArray<float>(q);
  }

  static std::vector<float> RandomQuery(const Case& c, std::mt19937_64& random) {
    return RandomNormal(random, c.row_tokens.size() * c.geometry.num_q_heads * c.geometry.head_dim, 1.5f);
  }

  void AddRow(uint32_t tokens, std::mt19937_64& random) {
    const uint32_t capacity = tokens + RandomInt(random, 1u, 40u);
    DecodeRowDesc row;
    row.capacity_tokens = capacity;
    row.kv_dtype = c.dtype;
    // Sinks at the begin, then the ring from somewhere, wrapped once; any piece may be empty.
    const uint32_t sinks = RandomInt(random, 0u, std::min(tokens, 20u));
    const uint32_t tail = RandomInt(random, 0u, tokens - sinks);
    row.attend[0] = {0, sinks};
    row.attend[1] = {capacity - tail, capacity};
    row.attend[2] = {sinks, tokens - tail};
    const size_t head_elements = size_t{capacity} * c.geometry.head_dim;
    std::vector<float> values(kLayers * 2 * c.geometry.num_kv_heads * head_elements);
    for (size_t begin = 0; begin < values.size(); begin += head_elements) {
      std::fill_n(values.begin() + begin, head_elements, std::nanf(""));
      for (const DecodeRowDesc::Range& range : row.attend) {
        const size_t count = size_t{range.end - range.begin} * c.geometry.head_dim;
        const std::vector<float> fresh = RandomNormal(random, count);
        std::copy(fresh.begin(), fresh.end(), values.begin() + begin + size_t{range.begin} * c.geometry.head_dim);
      }
    }
    regions.emplace_back(c.dtype, values);
    row.region = static_cast<std::byte*>(regions.back().get());
    rows.push_back(row);
  }

  // Scores as they were left, NaN. Of every other row.
  void AddScores(size_t r) {
    DecodeRowDesc& row = rows[r];
    scores.emplace(r, size_t{c.geometry.num_q_heads} * row.capacity_tokens);
    row.scores = scores.at(r).get();
  }

  const Case c;
  std::vector<float> q;
  mutable std::map<size_t, DeviceArray<float>> scores;
  std::vector<TypedArray> regions;
  std::vector<DecodeRowDesc> rows;
  DeviceArray<DecodeRowDesc> device_rows{1};
  DeviceArray<float> q_device{1};
};

struct Expected {
  std::vector<double> out;  // [head_dim]
  double lse_ln = -INFINITY;
  std::vector<double> scores;  // ln, by attended token
  double max_value = 0;
};

inline Expected Reference(const Batch& batch, uint32_t r, uint32_t head, uint32_t layer, double scale,
                          std::span<const float> sink_logits = {}) {
  const KvGeometry& g = batch.c.geometry;
  const DecodeRowDesc& row = batch.rows[r];
  const std::vector<float>& kv = batch.regions[r].values;
  const uint32_t kv_head = head / (g.num_q_heads / g.num_kv_heads);
  const size_t head_elements = size_t{row.capacity_tokens} * g.head_dim;
  const float* k = kv.data() + (size_t{layer} * 2 * g.num_kv_heads + kv_head) * head_elements;
  const float* v = k + g.num_kv_heads * head_elements;
  const float* q = batch.q.data() + (size_t{r} * g.num_q_heads + head) * g.head_dim;
  Expected expected;
  expected.out.resize(g.head_dim);
  std::vector<size_t> slots;
  for (const DecodeRowDesc::Range& range : row.attend) {
    for (uint32_t slot = range.begin; slot < range.end; ++slot) slots.push_back(slot);
  }
  double max = -INFINITY;
  for (const size_t slot : slots) {
    double score = 0;
    for (uint32_t d = 0; d < g.head_dim; ++d) score += double{q[d]} * k[slot * g.head_dim + d];
    score *= scale;
    const double cap = batch.c.soft_cap;
    expected.scores.push_back(cap == 0 ? score : cap * std::tanh(score / cap));
    max = std::max(max, expected.scores.back());
  }
  const double sink = sink_logits.empty() ? -INFINITY : double{sink_logits[head]};
  max = std::max(max, sink);
  double sum = sink_logits.empty() ? 0 : std::exp(sink - max);
  for (size_t i = 0; i < slots.size(); ++i) {
    const double weight = std::exp(expected.scores[i] - max);
    sum += weight;
    for (uint32_t d = 0; d < g.head_dim; ++d) {
      const double value = v[slots[i] * g.head_dim + d];
      expected.out[d] += weight * value;
      expected.max_value = std::max(expected.max_value, std::abs(value));
    }
  }
  if (max == -INFINITY) return expected;
  for (double& x : expected.out) x /= sum;
  expected.lse_ln = max + std::log(sum);
  return expected;
}

}  // namespace tributary::gpu
