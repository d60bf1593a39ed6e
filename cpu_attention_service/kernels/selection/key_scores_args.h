// The call that scans coarse codes of keys (attention/kv/key_code_layout.h): a score for each token and query head.
// Plain data and plain functions only, for the reason given in decode_attention_args.h.
#pragma once

#include <cstdint>

#include "attention/kv/key_code_layout.h"
#include "base/limits.h"

namespace tributary {

// What a scan has found for one head.
struct FoundKeys {
  uint32_t* ids = nullptr;
  float* scores = nullptr;  // of each id
  uint32_t count = 0;
};

struct ScoreKeysArgs {
  KeyCodeLayout layout;
  const void* records = nullptr;  // num_tokens / 64 records, aligned to 64
  uint32_t num_tokens = 0;        // a multiple of 64
  uint32_t record_step = 1;       // 1: all records; n: the first of each n, a sample
  uint32_t first_id = 0;          // of the first token of `records`
  const float* q = nullptr;       // [group_size][head_dim], rotated as the keys were
  uint32_t group_size = 0;        // 1 .. limits::kMaxGroupSize
  float softmax_scale = 0;
  const float* least = nullptr;  // [group_size]
  // [group_size]: found tokens are appended. There is room for all tokens that are scanned and for kSelectSlack more.
  FoundKeys* found = nullptr;
};

// Of each head the tokens with score >= least, in ascending order; NaN is never less. score = softmax_scale * q . key,
// of the keys that the codes stand for, with the q of a head rounded to int8, scale max |q| / 127. Sums are exact, and
// the products with scales come in one order, so every variant gives the same bits. A q that is not finite scores NaN.
// Reads each record once per 16 heads. Allocates nothing.
using ScoreKeysFn = void (*)(const ScoreKeysArgs& args);

}  // namespace tributary
