#include "attention/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace tributary {
namespace {

std::vector<float> ToF32(DType dtype, std::span<const std::byte> bytes) {
  TRIBUTARY_CHECK(IsValidDType(dtype));
  std::vector<float> values(bytes.size() / DTypeBytes(dtype));
  ConvertToF32(dtype, bytes.data(), values.size(), values.data());
  return values;
}

}  // namespace

ReferencePartial ReferenceAttention(const ReferenceInput& input) {
  const AttentionShape& shape = input.shape;
  TRIBUTARY_CHECK(Validate(shape).ok());
  TRIBUTARY_CHECK_EQ(input.q.size(), size_t{shape.num_q_heads} * shape.head_dim);
  const std::vector<float> k = ToF32(input.k_dtype, input.k);
  const std::vector<float> v = ToF32(input.v_dtype, input.v);
  const size_t row = size_t{shape.num_kv_heads} * shape.head_dim;
  TRIBUTARY_CHECK_EQ(k.size(), v.size());
  TRIBUTARY_CHECK_EQ(k.size() % row, 0u);
  const TokenRange visible = input.visible.value_or(TokenRange{0, k.size() / row});
  TRIBUTARY_CHECK_LE(visible.end, k.size() / row);

  ReferencePartial result;
  result.out.assign(input.q.size(), 0.0);
  result.lse_ln.assign(shape.num_q_heads, -std::numeric_limits<double>::infinity());
  const bool has_sinks = !input.sink_logits.empty();
  if (has_sinks) {
    TRIBUTARY_CHECK_EQ(input.sink_logits.size(), size_t{shape.num_q_heads});
    result.lse_ln.assign(input.sink_logits.begin(), input.sink_logits.end());
  }
  if (visible.empty()) return result;
  std::vector<double> scores(visible.size());
  for (uint32_t head = 0; head < shape.num_q_heads; ++head) {
    const size_t kv_offset = size_t{head / shape.group_size()} * shape.head_dim;
    const float* q = input.q.data() + size_t{head} * shape.head_dim;
    for (uint64_t t = visible.begin; t < visible.end; ++t) {
      double dot = 0;
      for (uint32_t d = 0; d < shape.head_dim; ++d) dot += double{q[d]} * k[t * row + kv_offset + d];
      const double score = input.softmax_scale * dot;
      scores[t - visible.begin] = input.soft_cap == 0 ? score : input.soft_cap * std::tanh(score / input.soft_cap);
    }
    const double sink_logit = result.lse_ln[head];
    const double max_score = std::max(sink_logit, *std::max_element(scores.begin(), scores.end()));
    double sum = has_sinks ? std::exp(sink_logit - max_score) : 0;
    for (double score : scores) sum += std::exp(score - max_score);
    const double lse_ln = max_score + std::log(sum);
    double* out = result.out.data() + size_t{head} * shape.head_dim;
    for (uint64_t t = visible.begin; t < visible.end; ++t) {
      const double weight = std::exp(scores[t - visible.begin] - lse_ln);
      for (uint32_t d = 0; d < shape.head_dim; ++d) out[d] += weight * v[t * row + kv_offset + d];
    }
    result.lse_ln[head] = lse_ln;
  }
  return result;
}

}  // namespace tributary
