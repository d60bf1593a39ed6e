// The reference: attention as its definition says, in f64, slowly. Every kernel and every cluster
// must agree with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "attention/shape.h"
#include "attention/token_range.h"
#include "base/dtype.h"

namespace tributary {

// One query token against some tokens of one layer. Borrowed memory.
struct ReferenceInput {
  AttentionShape shape;
  double softmax_scale = 1.0;
  double soft_cap = 0;  // scores become soft_cap tanh(score / soft_cap); 0: none
  std::span<const float>
      sink_logits;               // [num_q_heads]: one more addend each of the denominator, without a value; or empty
  std::span<const float> q;      // [num_q_heads][head_dim]
  std::span<const std::byte> k;  // [token][kv_head][head_dim] of k_dtype, unaligned
  std::span<const std::byte> v;  // [token][kv_head][head_dim] of v_dtype, unaligned
  DType k_dtype = DType::kF32;
  DType v_dtype = DType::kF32;
  std::optional<TokenRange> visible;  // rows of k and v to attend to; all if absent
};

// lse_ln = -inf and out = 0 where nothing is visible; lse_ln is the sink's logit there, if there is one.
struct ReferencePartial {
  std::vector<double> out;     // [num_q_heads][head_dim]
  std::vector<double> lse_ln;  // [num_q_heads]
};

// Query head h reads KV head h / group_size. REQUIRES (checked): valid shape and dtypes, sizes that
// agree, visible range inside the given rows.
ReferencePartial ReferenceAttention(const ReferenceInput& input);

}  // namespace tributary
