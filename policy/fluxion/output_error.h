// The true error of what query heads read of a shard, once what all of it gives is known: |o - o_full| over the largest
// |o_full| of the heads, where o is the attention over the resident tokens and what was read, o_full that over the
// resident tokens and all of the shard.
//
// The shard does not see the sequence's other shards, nor the KV heads that it does not hold: with these the error is
// no larger as a rule, since the shard's part weighs less. Pure.
#pragma once

#include <cstdint>
#include <span>

#include "attention/partial.h"

namespace tributary {

// For each head of the views, all [num_heads][head_dim] and [num_heads]; an empty `resident` is the empty partial. NaN
// where an operand is NaN. REQUIRES (checked): sizes that agree.
void OutputErrors(ConstAttentionPartialView resident, ConstAttentionPartialView read, ConstAttentionPartialView full,
                  uint32_t head_dim, std::span<float> errors);

}  // namespace tributary
