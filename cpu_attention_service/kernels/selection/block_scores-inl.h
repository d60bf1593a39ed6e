// Scoring blocks by their summaries, written once against the primitives of a select_lanes_*.h (`Lanes`). Included like
// block_selection-inl.h.
//
// Records of 64 blocks are read front to back; a lane holds a block, so that nothing is added across lanes. Four heads
// share each load of codes. What it costs is reading the summaries: at 4 heads int8 takes some 2 cycles per cache line
// and head.
#include <math.h>

#include "cpu_attention_service/kernels/selection/block_selection_args.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

constexpr uint32_t kPassHeads = 16;   // heads prepared at a time; larger groups read the records again
constexpr uint32_t kSharedHeads = 4;  // heads that share a load of codes
constexpr uint32_t kMaxRows = 2 * limits::kMaxHeadDim;
static_assert(limits::kMaxHeadDim % kSummaryDimMultiple == 0);
// Ahead of the loads: the dot products fill the window in which the core looks for loads, so that without it computing
// and reading take turns (measured on Zen 5, one thread: 0.91 of the read ceiling instead of 0.70).
constexpr uint32_t kPrefetchBytes = 4096;
constexpr float kLeastQuery = 0x1p-100f;  // a query that is smaller scores 0

// The queries of up to kPassHeads heads, in the form that the dot product takes; per kSharedHeads heads
// [rows / pack][kSharedHeads][words]. 32 KiB, of which the geometry's part is touched.
struct ScoreQueries {
  alignas(64) uint32_t words[kMaxRows * kPassHeads];
  float scale[kPassHeads];     // of a head's int8 dot products, softmax_scale included
  int32_t offset[kPassHeads];  // 128 times the sum of the head's codes
};

// What row `row` of the summaries is multiplied with: all of q, or its positive and then its negative part.
inline float RowOfQ(const BlockSummaryLayout& layout, const float* q, uint32_t row) {
  const uint32_t dim = row < layout.padded_dim ? row : row - layout.padded_dim;
  if (dim >= layout.head_dim) return 0;
  const float value = q[dim];
  if (layout.kind == SummaryKind::kMean) return value;
  const bool wants_positive = row < layout.padded_dim;
  return (value > 0) == wants_positive ? value : 0;
}

// The same of q in int8.
inline int8_t CodeOfRow(const BlockSummaryLayout& layout, const int8_t* codes, uint32_t row) {
  if (layout.kind == SummaryKind::kMean) return codes[row];
  if (row < layout.padded_dim) return codes[row] > 0 ? codes[row] : 0;
  const int8_t code = codes[row - layout.padded_dim];
  return code < 0 ? code : 0;
}

inline void PrepareInt8(const ScoreBlocksArgs& args, const float* q, uint32_t head, ScoreQueries* queries) {
  const BlockSummaryLayout& layout = args.layout;
  // The largest magnitude by its bits, which the compiler takes several of at a time.
  uint32_t largest_bits = 0;
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    uint32_t bits;
    __builtin_memcpy(&bits, q + d, sizeof(bits));
    bits &= 0x7fffffffu;
    largest_bits = bits > largest_bits ? bits : largest_bits;
  }
  float largest;
  __builtin_memcpy(&largest, &largest_bits, sizeof(largest));
  const bool is_finite = largest < INFINITY;  // false for NaN, whose bits are larger than all others
  const float to_code = largest >= kLeastQuery && is_finite ? 127.0f / largest : 0.0f;
  int8_t codes[limits::kMaxHeadDim] = {};
  int32_t sum = 0;
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    const float value = is_finite ? q[d] * to_code : 0.0f;
    codes[d] = static_cast<int8_t>(lrintf(value < 127.0f ? value : 127.0f));
    sum += codes[d];
  }
  const uint32_t set_begin = head / kSharedHeads * kSharedHeads * (layout.rows / 4) * Lanes::kQuadWords;
  uint32_t* words = queries->words + set_begin + head % kSharedHeads * Lanes::kQuadWords;
  for (uint32_t row = 0; row < layout.rows; row += 4) {
    int8_t quad[4];
    for (uint32_t i = 0; i < 4; ++i) quad[i] = CodeOfRow(layout, codes, row + i);
    Lanes::PackQuad(quad, words);
    words += kSharedHeads * Lanes::kQuadWords;
  }
  queries->offset[head] = sum * static_cast<int32_t>(kSummaryCodeZero);
  queries->scale[head] = is_finite ? largest / 127.0f * args.softmax_scale : NAN;
}

inline void PrepareBf16(const ScoreBlocksArgs& args, const float* q, uint32_t head, ScoreQueries* queries) {
  uint32_t* words = queries->words + head / kSharedHeads * kSharedHeads * args.layout.rows;
  for (uint32_t row = 0; row < args.layout.rows; ++row) {
    const float value = RowOfQ(args.layout, q, row) * args.softmax_scale;
    __builtin_memcpy(words + row * kSharedHeads + head % kSharedHeads, &value, sizeof(value));
  }
}

// Heads [0, kHeads) of a shared set against kVectors vectors of blocks of a record.
template <uint32_t kHeads>
inline void ScoreInt8(const BlockSummaryLayout& layout, const uint8_t* record, uint32_t first_lane,
                      const uint32_t* words, const ScoreQueries& queries, uint32_t head, float* scores,
                      uint32_t stride) {
  Lanes::I sums[kHeads][Lanes::kVectors];
#pragma GCC unroll 4
  for (auto& row : sums) {
#pragma GCC unroll 4
    for (Lanes::I& sum : row) sum = Lanes::ZeroI();
  }
  const uint8_t* codes = record + first_lane * 4;
  for (uint32_t quad = 0; quad < layout.rows / 4; ++quad) {
#pragma GCC unroll 4
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
      const uint8_t* from = codes + (quad * kSummaryRecordBlocks + v * Lanes::kLanes) * 4;
      __builtin_prefetch(from + kPrefetchBytes);
      const Lanes::I block_codes = Lanes::LoadI(from);
#pragma GCC unroll 4
      for (uint32_t h = 0; h < kHeads; ++h) {
        sums[h][v] = Lanes::DotQuads(sums[h][v], block_codes, words + (quad * kSharedHeads + h) * Lanes::kQuadWords);
      }
    }
  }
  const auto* scales = reinterpret_cast<const float*>(record + layout.scales_begin) + first_lane;
#pragma GCC unroll 4
  for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
    const Lanes::F scale = Lanes::LoadF(scales + v * Lanes::kLanes);
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kHeads; ++h) {
      const Lanes::I dot = Lanes::SubI(sums[h][v], Lanes::BroadcastI(static_cast<uint32_t>(queries.offset[head + h])));
      const Lanes::F factor = Lanes::MulF(scale, Lanes::BroadcastF(queries.scale[head + h]));
      Lanes::StoreF(scores + h * stride + first_lane + v * Lanes::kLanes, Lanes::MulF(Lanes::ToFloat(dot), factor));
    }
  }
}

template <uint32_t kHeads>
inline void ScoreBf16(const BlockSummaryLayout& layout, const uint8_t* record, uint32_t first_lane,
                      const uint32_t* words, float* scores, uint32_t stride) {
  Lanes::F sums[kHeads][Lanes::kVectors];
#pragma GCC unroll 4
  for (auto& row : sums) {
#pragma GCC unroll 4
    for (Lanes::F& sum : row) sum = Lanes::BroadcastF(0.0f);
  }
  const auto* q = reinterpret_cast<const float*>(words);
  const uint8_t* codes = record + first_lane * 4;
  for (uint32_t pair = 0; pair < layout.rows / 2; ++pair) {
#pragma GCC unroll 4
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
      const uint8_t* from = codes + (pair * kSummaryRecordBlocks + v * Lanes::kLanes) * 4;
      __builtin_prefetch(from + kPrefetchBytes);
      const Lanes::I both = Lanes::LoadI(from);
      const Lanes::F first = Lanes::LowBf16(both);
      const Lanes::F second = Lanes::HighBf16(both);
#pragma GCC unroll 4
      for (uint32_t h = 0; h < kHeads; ++h) {
        const float* q_pair = q + 2 * pair * kSharedHeads + h;
        sums[h][v] = Lanes::MulAdd(first, Lanes::BroadcastF(q_pair[0]), sums[h][v]);
        sums[h][v] = Lanes::MulAdd(second, Lanes::BroadcastF(q_pair[kSharedHeads]), sums[h][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
      Lanes::StoreF(scores + h * stride + first_lane + v * Lanes::kLanes, sums[h][v]);
    }
  }
}

template <uint32_t kHeads>
inline void ScoreRecord(const BlockSummaryLayout& layout, const uint8_t* record, const ScoreQueries& queries,
                        uint32_t head, float* scores, uint32_t stride) {
  const bool is_int8 = layout.storage == SummaryStorage::kInt8;
  const uint32_t* words = queries.words + head * (is_int8 ? layout.rows / 4 * Lanes::kQuadWords : layout.rows);
  for (uint32_t lane = 0; lane < kSummaryRecordBlocks; lane += Lanes::kVectors * Lanes::kLanes) {
    if (is_int8) {
      ScoreInt8<kHeads>(layout, record, lane, words, queries, head, scores, stride);
    } else {
      ScoreBf16<kHeads>(layout, record, lane, words, scores, stride);
    }
  }
}

// Scores of up to kPassHeads heads for one record, `stride` apart.
inline void ScoreHeads(const BlockSummaryLayout& layout, const uint8_t* record, uint32_t num_heads,
                       const ScoreQueries& queries, float* scores, uint32_t stride) {
  for (uint32_t head = 0; head < num_heads; head += kSharedHeads) {
    const uint32_t left = num_heads - head;
    float* to = scores + uint64_t{head} * stride;
    if (left >= 4) {
      ScoreRecord<4>(layout, record, queries, head, to, stride);
    } else if (left == 3) {
      ScoreRecord<3>(layout, record, queries, head, to, stride);
    } else if (left == 2) {
      ScoreRecord<2>(layout, record, queries, head, to, stride);
    } else {
      ScoreRecord<1>(layout, record, queries, head, to, stride);
    }
  }
}

// largest[block] = the largest of the heads' scores, and of what is there if `add`.
inline void MaxOverHeads(const float* scores, uint32_t stride, uint32_t num_heads, bool add, float* largest) {
  for (uint32_t lane = 0; lane < kSummaryRecordBlocks; lane += Lanes::kLanes) {
    Lanes::F high = Lanes::LoadF(scores + lane);
    for (uint32_t head = 1; head < num_heads; ++head) {
      high = Lanes::MaxOrNan(high, Lanes::LoadF(scores + uint64_t{head} * stride + lane));
    }
    if (add) high = Lanes::MaxOrNan(high, Lanes::LoadF(largest + lane));
    Lanes::StoreF(largest + lane, high);
  }
}

// A record of which only `count` blocks exist, by way of memory that has room for all of them.
inline void ScoreLastRecord(const ScoreBlocksArgs& args, const uint8_t* record, uint32_t first_block,
                            uint32_t first_head, uint32_t num_heads, const ScoreQueries& queries) {
  alignas(64) float scores[kPassHeads * kSummaryRecordBlocks];
  ScoreHeads(args.layout, record, num_heads, queries, scores, kSummaryRecordBlocks);
  const uint32_t bytes = (args.num_blocks - first_block) * sizeof(float);
  for (uint32_t head = 0; head < num_heads && args.scores != nullptr; ++head) {
    float* to = args.scores + uint64_t{first_head + head} * args.score_stride + first_block;
    __builtin_memcpy(to, scores + head * kSummaryRecordBlocks, bytes);
  }
  if (args.group_max == nullptr) return;
  alignas(64) float largest[kSummaryRecordBlocks] = {};
  if (first_head != 0) __builtin_memcpy(largest, args.group_max + first_block, bytes);
  MaxOverHeads(scores, kSummaryRecordBlocks, num_heads, first_head != 0, largest);
  __builtin_memcpy(args.group_max + first_block, largest, bytes);
}

void ScoreBlocks(const ScoreBlocksArgs& args) {
  ScoreQueries queries;
  const bool is_int8 = args.layout.storage == SummaryStorage::kInt8;
  for (uint32_t first = 0; first < args.group_size; first += kPassHeads) {
    const uint32_t left = args.group_size - first;
    const uint32_t num_heads = left < kPassHeads ? left : kPassHeads;
    for (uint32_t head = 0; head < num_heads; ++head) {
      const float* q = args.q + uint64_t{first + head} * args.layout.head_dim;
      if (is_int8) {
        PrepareInt8(args, q, head, &queries);
      } else {
        PrepareBf16(args, q, head, &queries);
      }
    }
    const auto* record = static_cast<const uint8_t*>(args.records);
    uint32_t block = 0;
    for (; block + kSummaryRecordBlocks <= args.num_blocks; block += kSummaryRecordBlocks) {
      alignas(64) float here[kPassHeads * kSummaryRecordBlocks];
      float* scores = here;
      uint32_t stride = kSummaryRecordBlocks;
      if (args.scores != nullptr) {
        scores = args.scores + uint64_t{first} * args.score_stride + block;
        stride = args.score_stride;
      }
      ScoreHeads(args.layout, record, num_heads, queries, scores, stride);
      if (args.group_max != nullptr) {
        MaxOverHeads(scores, stride, num_heads, first != 0, args.group_max + block);
      }
      record += args.layout.record_bytes;
    }
    if (block < args.num_blocks) {
      ScoreLastRecord(args, record, block, first, num_heads, queries);
    }
  }
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
