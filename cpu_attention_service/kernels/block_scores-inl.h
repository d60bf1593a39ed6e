// Scoring blocks by their summaries, written once against the primitives of a select_lanes_*.h (`Lanes`). Included like
// block_selection-inl.h.
//
// Records of 64 blocks are read front to back; a lane holds a block, so that nothing is added across lanes. Four heads
// share each load of codes. What it costs is reading the summaries: at 4 heads int8 takes some 2 cycles per cache line
// and head.
#include <math.h>

#include "cpu_attention_service/kernels/block_selection_args.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

constexpr uint32_t kPassHeads =
    16;  // heads prepared at a time; larger groups read the records again
constexpr uint32_t kSharedHeads = 4;  // heads that share a load of codes
constexpr uint32_t kMaxRows = 2 * limits::kMaxHeadDim;
static_assert(limits::kMaxHeadDim % kSummaryDimMultiple == 0);

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

inline void PrepareInt8(const ScoreBlocksArgs& args, const float* q, uint32_t head,
                        ScoreQueries* queries) {
  const BlockSummaryLayout& layout = args.layout;
  float largest = 0;
  bool is_finite = true;
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    if (!(fabsf(q[d]) < INFINITY)) is_finite = false;
    if (fabsf(q[d]) > largest) largest = fabsf(q[d]);
  }
  const float to_code = largest > 0 && is_finite ? 127.0f / largest : 0.0f;
  int32_t sum = 0;
  uint32_t* words =
      queries->words + head / kSharedHeads * kSharedHeads * (layout.rows / 4) * Lanes::kQuadWords;
  for (uint32_t quad = 0; quad < layout.rows / 4; ++quad) {
    int8_t codes[4];
    for (uint32_t i = 0; i < 4; ++i) {
      const float value = is_finite ? RowOfQ(layout, q, quad * 4 + i) * to_code : 0.0f;
      codes[i] = static_cast<int8_t>(lrintf(value < 127.0f ? value : 127.0f));
      sum += codes[i];
    }
    Lanes::PackQuad(codes, words + (quad * kSharedHeads + head % kSharedHeads) * Lanes::kQuadWords);
  }
  queries->offset[head] = sum * static_cast<int32_t>(kSummaryCodeZero);
  queries->scale[head] = is_finite ? largest / 127.0f * args.softmax_scale : NAN;
}

inline void PrepareBf16(const ScoreBlocksArgs& args, const float* q, uint32_t head,
                        ScoreQueries* queries) {
  uint32_t* words = queries->words + head / kSharedHeads * kSharedHeads * args.layout.rows;
  for (uint32_t row = 0; row < args.layout.rows; ++row) {
    const float value = RowOfQ(args.layout, q, row) * args.softmax_scale;
    __builtin_memcpy(words + row * kSharedHeads + head % kSharedHeads, &value, sizeof(value));
  }
}

// Heads [0, kHeads) of a shared set against kVectors vectors of blocks of a record.
template <uint32_t kHeads>
inline void ScoreInt8(const BlockSummaryLayout& layout, const uint8_t* record, uint32_t first_lane,
                      const uint32_t* words, const ScoreQueries& queries, uint32_t head,
                      float (*scores)[kSummaryRecordBlocks]) {
  Lanes::I sums[kHeads][Lanes::kVectors];
  for (auto& row : sums) {
    for (Lanes::I& sum : row) sum = Lanes::ZeroI();
  }
  const uint8_t* codes = record + first_lane * 4;
  for (uint32_t quad = 0; quad < layout.rows / 4; ++quad) {
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
      const Lanes::I block_codes =
          Lanes::LoadI(codes + (quad * kSummaryRecordBlocks + v * Lanes::kLanes) * 4);
      for (uint32_t h = 0; h < kHeads; ++h) {
        sums[h][v] = Lanes::DotQuads(sums[h][v], block_codes,
                                     words + (quad * kSharedHeads + h) * Lanes::kQuadWords);
      }
    }
  }
  const auto* scales = reinterpret_cast<const float*>(record + layout.scales_begin) + first_lane;
  for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
    const Lanes::F scale = Lanes::LoadF(scales + v * Lanes::kLanes);
    for (uint32_t h = 0; h < kHeads; ++h) {
      const Lanes::I dot = Lanes::SubI(
          sums[h][v], Lanes::BroadcastI(static_cast<uint32_t>(queries.offset[head + h])));
      const Lanes::F factor = Lanes::MulF(scale, Lanes::BroadcastF(queries.scale[head + h]));
      Lanes::StoreF(scores[h] + first_lane + v * Lanes::kLanes,
                    Lanes::MulF(Lanes::ToFloat(dot), factor));
    }
  }
}

template <uint32_t kHeads>
inline void ScoreBf16(const BlockSummaryLayout& layout, const uint8_t* record, uint32_t first_lane,
                      const uint32_t* words, float (*scores)[kSummaryRecordBlocks]) {
  Lanes::F sums[kHeads][Lanes::kVectors];
  for (auto& row : sums) {
    for (Lanes::F& sum : row) sum = Lanes::BroadcastF(0.0f);
  }
  const auto* q = reinterpret_cast<const float*>(words);
  const uint8_t* codes = record + first_lane * 4;
  for (uint32_t pair = 0; pair < layout.rows / 2; ++pair) {
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
      const Lanes::I both =
          Lanes::LoadI(codes + (pair * kSummaryRecordBlocks + v * Lanes::kLanes) * 4);
      const Lanes::F first = Lanes::LowBf16(both);
      const Lanes::F second = Lanes::HighBf16(both);
      for (uint32_t h = 0; h < kHeads; ++h) {
        const float* q_pair = q + 2 * pair * kSharedHeads + h;
        sums[h][v] = Lanes::MulAdd(first, Lanes::BroadcastF(q_pair[0]), sums[h][v]);
        sums[h][v] = Lanes::MulAdd(second, Lanes::BroadcastF(q_pair[kSharedHeads]), sums[h][v]);
      }
    }
  }
  for (uint32_t h = 0; h < kHeads; ++h) {
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
      Lanes::StoreF(scores[h] + first_lane + v * Lanes::kLanes, sums[h][v]);
    }
  }
}

template <uint32_t kHeads>
inline void ScoreRecord(const BlockSummaryLayout& layout, const uint8_t* record,
                        const ScoreQueries& queries, uint32_t head,
                        float (*scores)[kSummaryRecordBlocks]) {
  const bool is_int8 = layout.storage == SummaryStorage::kInt8;
  const uint32_t* words =
      queries.words + head * (is_int8 ? layout.rows / 4 * Lanes::kQuadWords : layout.rows);
  for (uint32_t lane = 0; lane < kSummaryRecordBlocks; lane += Lanes::kVectors * Lanes::kLanes) {
    if (is_int8) {
      ScoreInt8<kHeads>(layout, record, lane, words, queries, head, scores);
    } else {
      ScoreBf16<kHeads>(layout, record, lane, words, scores);
    }
  }
}

// Scores of up to kPassHeads heads for one record, copied to where the caller wants the blocks that there are.
inline void ScoreAndStore(const ScoreBlocksArgs& args, const uint8_t* record, uint32_t first_block,
                          uint32_t first_head, uint32_t num_heads, const ScoreQueries& queries) {
  alignas(64) float scores[kPassHeads][kSummaryRecordBlocks];
  for (uint32_t head = 0; head < num_heads; head += kSharedHeads) {
    const uint32_t left = num_heads - head;
    if (left >= 4) {
      ScoreRecord<4>(args.layout, record, queries, head, scores + head);
    } else if (left == 3) {
      ScoreRecord<3>(args.layout, record, queries, head, scores + head);
    } else if (left == 2) {
      ScoreRecord<2>(args.layout, record, queries, head, scores + head);
    } else {
      ScoreRecord<1>(args.layout, record, queries, head, scores + head);
    }
  }
  const uint32_t rest = args.num_blocks - first_block;
  const uint32_t count = rest < kSummaryRecordBlocks ? rest : kSummaryRecordBlocks;
  for (uint32_t head = 0; head < num_heads; ++head) {
    float* to = args.scores + uint64_t{first_head + head} * args.score_stride + first_block;
    __builtin_memcpy(to, scores[head], count * sizeof(float));
  }
  if (args.group_max == nullptr) return;
  for (uint32_t lane = 0; lane < kSummaryRecordBlocks; lane += Lanes::kLanes) {
    Lanes::F largest = Lanes::LoadF(scores[0] + lane);
    for (uint32_t head = 1; head < num_heads; ++head) {
      largest = Lanes::MaxOrNan(largest, Lanes::LoadF(scores[head] + lane));
    }
    Lanes::StoreF(scores[0] + lane, largest);
  }
  float* group_max = args.group_max + first_block;
  if (first_head == 0) {
    __builtin_memcpy(group_max, scores[0], count * sizeof(float));
    return;
  }
  for (uint32_t i = 0; i < count; ++i) {
    if (!(scores[0][i] <= group_max[i]) && group_max[i] == group_max[i])
      group_max[i] = scores[0][i];
  }
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
    for (uint32_t block = 0; block < args.num_blocks; block += kSummaryRecordBlocks) {
      ScoreAndStore(args, record, block, first, num_heads, queries);
      record += args.layout.record_bytes;
    }
  }
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
