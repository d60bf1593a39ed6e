// The error of an attention output that leaves tokens out, once what all tokens give is known:
//
//   |o - o_full| / max over the query heads of |o_full|
//
// with o and o_full each the merge (merge.h) of partials of disjoint token sets, such as a window's and some shards'.
// The maximum is over the query heads of a layer, so that a head which contributes little has a small error
// (arXiv 2605.07719 measures by it). Pure, and allocates nothing.
#pragma once

#include <cstdint>
#include <span>

#include "attention/partial.h"

namespace tributary {

// Of one query head, in f64.
struct OutputDistance {
  double distance = 0;   // |o - o_full|
  double full_norm = 0;  // |o_full|
};

// Head `head` of the views, which are all [num_heads][head_dim] and [num_heads]. Both merges are done with the weights
// of merge.h, in the given order: of the same partials they are the same, and the distance is 0. A partial whose lse_ln
// is -inf is not looked at. NaN where an operand is NaN. REQUIRES (checked): at most limits::kMaxTokenStripes + 1
// partials each.
OutputDistance CompareOutputs(std::span<const ConstAttentionPartialView> read,
                              std::span<const ConstAttentionPartialView> full, size_t head, uint32_t head_dim);

// The error, from the largest |o_full| of the layer. 0 where the distance is; NaN where it is NaN.
inline float OutputError(double distance, double largest_full_norm) {
  return distance == 0 ? 0.0f : static_cast<float>(distance / largest_full_norm);
}

// The errors of all heads of the views, where these are all that the layer has. REQUIRES (checked): as above.
void OutputErrors(std::span<const ConstAttentionPartialView> read, std::span<const ConstAttentionPartialView> full,
                  uint32_t head_dim, std::span<float> errors);

}  // namespace tributary
