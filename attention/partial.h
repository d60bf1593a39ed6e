// The result of attending some queries to one set of tokens.
//
// For one query head:
//   lse_ln = ln sum_t exp(softmax_scale * q.k_t)               (natural log, never base 2)
//   out    = sum_t exp(softmax_scale * q.k_t - lse_ln) v_t     (already normalised)
// Partials over disjoint token sets merge commutatively and associatively (attention/merge.h). The
// empty set is the neutral element: out = 0, lse_ln = -inf, nothing covered.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

namespace tributary {

inline constexpr float kEmptyLse = -std::numeric_limits<float>::infinity();

// How much of the context a partial answers for, and how much of it was really read.
struct Coverage {
  uint64_t covered_tokens = 0;
  uint64_t attended_head_tokens = 0;  // summed over the KV heads; covered_tokens times those when dense
};

// Borrowed memory; the caller keeps it alive and unshared while writing.
struct AttentionPartialView {
  std::span<float> out;     // [num_q_heads][head_dim]
  std::span<float> lse_ln;  // [num_q_heads]
};

struct ConstAttentionPartialView {
  std::span<const float> out;     // [num_q_heads][head_dim]
  std::span<const float> lse_ln;  // [num_q_heads]

  ConstAttentionPartialView() = default;
  ConstAttentionPartialView(std::span<const float> o, std::span<const float> l) : out(o), lse_ln(l) {}
  ConstAttentionPartialView(const AttentionPartialView& view) : out(view.out), lse_ln(view.lse_ln) {}  // NOLINT
};

}  // namespace tributary
