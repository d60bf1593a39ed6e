// Scoring tokens by the codes of their keys, written once against the primitives of a select_lanes_*.h (`Lanes`).
// Included like block_selection-inl.h.
//
// A lane holds a token. A word of codes is shifted and masked into as many quads of bytes as it has, which all heads of
// a set share; so at 2 bits and 4 heads 64 bytes of codes take 16 dot products and 8 other instructions. The mean is
// dotted once for 64 tokens.
#include <math.h>

#include "cpu_attention_service/kernels/selection/key_scores_args.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

constexpr uint32_t kScanPassHeads = 16;   // heads prepared at a time; larger groups read the records again
constexpr uint32_t kScanSharedHeads = 4;  // heads that share a load of codes
constexpr uint32_t kScanMaxDim = (limits::kMaxHeadDim + 31) / 32 * 32;
constexpr uint32_t kScanPrefetchBytes = 4096;  // ahead of the loads, as for summaries (block_scores-inl.h)
constexpr float kScanLeastQuery = 0x1p-100f;   // a q that is smaller scores 0

// The queries of up to kScanPassHeads heads.
struct ScanQueries {
  // As the dot product takes them: per set of kScanSharedHeads heads [padded_dim / 4][kScanSharedHeads][kQuadWords].
  alignas(64) uint32_t words[kScanMaxDim / 4 * kScanPassHeads * Lanes::kQuadWords];
  int8_t codes[kScanPassHeads][kScanMaxDim];
  int32_t offset[kScanPassHeads];  // max_code times the sum of the head's codes
  float scale[kScanPassHeads];     // of a code, softmax_scale included
};

// NaN if any is.
inline float LargestMagnitude(const float* values, uint32_t count) {
  float largest = 0;
  for (uint32_t i = 0; i < count; ++i) {
    const float magnitude = fabsf(values[i]);
    if (magnitude != magnitude) return magnitude;
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

inline void PrepareHead(const ScoreKeysArgs& args, const float* q, uint32_t head, ScanQueries* to) {
  const KeyCodeLayout& layout = args.layout;
  const float largest = LargestMagnitude(q, layout.head_dim);
  const bool is_finite = largest < INFINITY;
  const float to_code = is_finite && largest >= kScanLeastQuery ? 127.0f / largest : 0.0f;
  int8_t* const codes = to->codes[head];
  int32_t sum = 0;
  for (uint32_t dim = 0; dim < layout.padded_dim; ++dim) {
    const float scaled = is_finite && dim < layout.head_dim ? q[dim] * to_code : 0.0f;
    codes[dim] = static_cast<int8_t>(lrintf(scaled < 127.0f ? scaled : 127.0f));
    sum += codes[dim];
  }
  const uint32_t set_begin = head / kScanSharedHeads * kScanSharedHeads * (layout.padded_dim / 4);
  uint32_t* words = to->words + (set_begin + head % kScanSharedHeads) * Lanes::kQuadWords;
  for (uint32_t dim = 0; dim < layout.padded_dim; dim += 4) {
    const int8_t quad[4] = {codes[dim], codes[dim + 1], codes[dim + 2], codes[dim + 3]};
    Lanes::PackQuad(quad, words);
    words += kScanSharedHeads * Lanes::kQuadWords;
  }
  to->offset[head] = static_cast<int32_t>((1u << layout.bits) - 1) * sum;
  to->scale[head] = is_finite ? largest / 127.0f * args.softmax_scale : NAN;
}

// The head's score with the mean of the record's keys.
inline float MeanScore(const KeyCodeLayout& layout, const uint8_t* record, const ScanQueries& queries, uint32_t head) {
  const auto* const mean = reinterpret_cast<const int8_t*>(record + layout.mean_begin);
  int32_t dot = 0;
  for (uint32_t dim = 0; dim < layout.padded_dim; ++dim) dot += queries.codes[head][dim] * mean[dim];
  float scale;
  __builtin_memcpy(&scale, record + layout.mean_scale_begin, sizeof(scale));
  scale *= queries.scale[head];
  return static_cast<float>(dot) * scale;
}

// The quads of one word of codes of each vector of tokens, from quad kPart on; `queries`: the heads' for quad 0.
template <uint32_t kBits, uint32_t kHeads, uint32_t kPart = 0>
inline void DotWords(const Lanes::I (&words)[Lanes::kVectors], const uint32_t* queries,
                     Lanes::I (&sums)[kHeads][Lanes::kVectors]) {
  if constexpr (kPart * kBits < 8) {
    constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x01010101u;
    Lanes::I codes[Lanes::kVectors];
#pragma GCC unroll 4
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
      codes[v] = Lanes::AndI(Lanes::template ShiftRight<kPart * kBits>(words[v]), Lanes::BroadcastI(kMask));
    }
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
      for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
        sums[h][v] =
            Lanes::DotQuads(sums[h][v], codes[v], queries + (kPart * kScanSharedHeads + h) * Lanes::kQuadWords);
      }
    }
    DotWords<kBits, kHeads, kPart + 1>(words, queries, sums);
  }
}

// kVectors vectors of tokens, from `token` of the record on, for kHeads heads from `head` on.
template <uint32_t kBits, uint32_t kHeads>
inline void ScanTokens(const KeyCodeLayout& layout, const uint8_t* record, uint32_t token, const ScanQueries& queries,
                       uint32_t head, const float* mean_scores, float* scores, uint32_t stride) {
  Lanes::I sums[kHeads][Lanes::kVectors];
#pragma GCC unroll 4
  for (auto& of_head : sums) {
#pragma GCC unroll 4
    for (Lanes::I& sum : of_head) sum = Lanes::ZeroI();
  }
  constexpr uint32_t kWordDims = 32 / kBits;
  const uint32_t* query_words = queries.words + head * (layout.padded_dim / 4) * Lanes::kQuadWords;
  const uint8_t* from = record + token * 4;
  for (uint32_t dim = 0; dim < layout.padded_dim; dim += kWordDims) {
    Lanes::I words[Lanes::kVectors];
#pragma GCC unroll 4
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
      __builtin_prefetch(from + v * Lanes::kLanes * 4 + kScanPrefetchBytes);
      words[v] = Lanes::LoadI(from + v * Lanes::kLanes * 4);
    }
    DotWords<kBits, kHeads>(words, query_words, sums);
    from += kKeyCodeRecordTokens * 4;
    query_words += kWordDims / 4 * kScanSharedHeads * Lanes::kQuadWords;
  }
  const auto* scales = reinterpret_cast<const float*>(record + layout.scales_begin) + token;
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    const Lanes::I offset = Lanes::BroadcastI(static_cast<uint32_t>(queries.offset[head + h]));
    const Lanes::F half_scale = Lanes::BroadcastF(0.5f * queries.scale[head + h]);
    const Lanes::F mean = Lanes::BroadcastF(mean_scores[h]);
#pragma GCC unroll 4
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
      const Lanes::F doubled = Lanes::ToFloat(Lanes::SubI(Lanes::AddI(sums[h][v], sums[h][v]), offset));
      const Lanes::F factor = Lanes::MulF(Lanes::LoadF(scales + v * Lanes::kLanes), half_scale);
      Lanes::StoreF(scores + uint64_t{h} * stride + token + v * Lanes::kLanes, Lanes::MulAdd(doubled, factor, mean));
    }
  }
}

template <uint32_t kBits, uint32_t kHeads>
inline void ScanRecords(const ScoreKeysArgs& args, const ScanQueries& queries, uint32_t head, uint32_t first_head) {
  const auto* record = static_cast<const uint8_t*>(args.records);
  float* scores = args.scores + uint64_t{first_head + head} * args.score_stride;
  for (uint32_t token = 0; token < args.num_tokens; token += kKeyCodeRecordTokens) {
    float mean_scores[kHeads];
    for (uint32_t h = 0; h < kHeads; ++h) mean_scores[h] = MeanScore(args.layout, record, queries, head + h);
    for (uint32_t lane = 0; lane < kKeyCodeRecordTokens; lane += Lanes::kVectors * Lanes::kLanes) {
      ScanTokens<kBits, kHeads>(args.layout, record, lane, queries, head, mean_scores, scores + token,
                                args.score_stride);
    }
    record += args.layout.record_bytes;
  }
}

template <uint32_t kBits>
inline void ScanHeads(const ScoreKeysArgs& args) {
  ScanQueries queries;
  for (uint32_t first = 0; first < args.group_size; first += kScanPassHeads) {
    const uint32_t left = args.group_size - first;
    const uint32_t num_heads = left < kScanPassHeads ? left : kScanPassHeads;
    for (uint32_t head = 0; head < num_heads; ++head) {
      PrepareHead(args, args.q + uint64_t{first + head} * args.layout.head_dim, head, &queries);
    }
    for (uint32_t head = 0; head < num_heads; head += kScanSharedHeads) {
      switch (num_heads - head) {
        case 1:
          ScanRecords<kBits, 1>(args, queries, head, first);
          break;
        case 2:
          ScanRecords<kBits, 2>(args, queries, head, first);
          break;
        case 3:
          ScanRecords<kBits, 3>(args, queries, head, first);
          break;
        default:
          ScanRecords<kBits, 4>(args, queries, head, first);
      }
    }
  }
}

void ScoreKeys(const ScoreKeysArgs& args) {
  switch (args.layout.bits) {
    case 1:
      ScanHeads<1>(args);
      break;
    case 2:
      ScanHeads<2>(args);
      break;
    default:
      ScanHeads<4>(args);
  }
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
