// The call that scans coarse codes of keys (attention/kv/key_code_layout.h): a score for each token and query head.
// Plain data and plain functions only, for the reason given in decode_attention_args.h.
#pragma once

#include <cstdint>

#include "attention/kv/key_code_layout.h"
#include "base/limits.h"

namespace tributary {

struct ScoreKeysArgs {
  KeyCodeLayout layout;
  const void* records = nullptr;  // num_tokens / 64 records, aligned to 64
  uint32_t num_tokens = 0;        // a multiple of 64
  const float* q = nullptr;       // [group_size][head_dim], rotated as the keys were
  uint32_t group_size = 0;        // 1 .. limits::kMaxGroupSize
  float softmax_scale = 0;
  float* scores = nullptr;  // [group_size][score_stride], num_tokens of each row are written
  uint32_t score_stride = 0;
};

// scores = softmax_scale * q . key, of the keys that the codes stand for, with the q of a head rounded to int8, scale
// max |q| / 127. Sums are exact, and the products with scales come in one order, so every variant gives the same bits.
// A q that is not finite scores NaN. Reads each record once per 16 heads. Allocates nothing.
using ScoreKeysFn = void (*)(const ScoreKeysArgs& args);

}  // namespace tributary
