// The calls of block selection that every ISA variant implements: score a stream's blocks by their summaries, then
// choose among them. Plain data and plain functions only, for the reason given in decode_attention_args.h.
//
// Every variant gives the same bits: dot products are exact in int8 and added in one order in bf16, and the choice is
// made by comparisons and by sums of integers. So two nodes of different CPUs choose the same blocks.
#pragma once

#include <cstdint>

#include "attention/kv/block_summary_layout.h"
#include "base/limits.h"
#include "cpu_attention_service/kernels/selection/key_scores_args.h"

namespace tributary {

struct ScoreBlocksArgs {
  BlockSummaryLayout layout;
  const void* records = nullptr;  // ceil(num_blocks / 64) records, aligned to 64
  uint32_t num_blocks = 0;
  const float* q = nullptr;  // [group_size][head_dim]
  uint32_t group_size = 0;   // 1 .. limits::kMaxGroupSize
  float softmax_scale = 0;
  // Either may be null. Who needs only the maxima should not ask for each head's: writing them takes as long as reading
  // the summaries from the cache.
  float* scores = nullptr;     // [group_size][score_stride], num_blocks of each row are written
  uint32_t score_stride = 0;   // >= num_blocks
  float* group_max = nullptr;  // [num_blocks]: the largest score of the heads; NaN if one is NaN
};

// scores = softmax_scale * q . summary; with kMinMax, softmax_scale * sum over dims of max(q * minimum, q * maximum):
// no key of the block scores more (up to the rounding of q). int8: q is rounded to int8 per head, with scale max |q| /
// 127. Reads each record once. Allocates nothing.
using ScoreBlocksFn = void (*)(const ScoreBlocksArgs& args);

// Room that the selections below need in `ids` beyond the ids that they return.
inline constexpr uint32_t kSelectSlack = 16;

// Each writes ids in ascending order and returns how many. NaN counts as larger than every number. Ties are broken in
// favour of the smaller id. None allocates; n may be 0.

// The k largest: min(k, n) ids. `ids` has room for k + kSelectSlack.
using SelectTopKFn = uint32_t (*)(const float* scores, uint32_t n, uint32_t k, uint32_t* ids);

// All with score >= threshold. `ids` has room for n + kSelectSlack.
using SelectThresholdFn = uint32_t (*)(const float* scores, uint32_t n, float threshold, uint32_t* ids);

// The fewest of the largest weights whose sum is at least p times the sum of all, 0 < p <= 1. Weights are taken as
// multiples of 2^-24 of the largest finite one (so that the sums are exact); negative ones count as 0; NaN and +inf are
// always chosen and are in neither sum. `fixed` is scratch for n, aligned to 64 and padded to a multiple of 16; `ids`
// has room for n + kSelectSlack.
using SelectTopPFn = uint32_t (*)(const float* weights, uint32_t n, double p, uint32_t* fixed, uint32_t* ids);

struct BlockSelectionFns {
  ScoreBlocksFn score_blocks;
  ScoreKeysFn score_keys;
  SelectTopKFn top_k;
  SelectThresholdFn threshold;
  SelectTopPFn top_p;
};

BlockSelectionFns BlockSelectionScalar();
BlockSelectionFns BlockSelectionAvx2();
BlockSelectionFns BlockSelectionAvx512();
BlockSelectionFns BlockSelectionAvx512Vnni();
BlockSelectionFns BlockSelectionAvx512Vbmi2();
BlockSelectionFns BlockSelectionAmx();

}  // namespace tributary
