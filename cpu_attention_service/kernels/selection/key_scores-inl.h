// Scoring tokens by the codes of their keys, written once against the primitives of a select_lanes_*.h (`Lanes`).
// Included like block_selection-inl.h.
//
// A lane holds a token. A word of codes is shifted and masked into as many quads of bytes as it has, which all heads of
// a set share; so at 2 bits and 4 heads 64 bytes of codes take 16 dot products and 8 other instructions. The mean is
// dotted once for 64 tokens. Scores stay in registers: those of a vector of tokens of which none reaches the threshold,
// which are most, are never written.
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
  alignas(64) int16_t codes[kScanPassHeads][kScanMaxDim];
  alignas(64) int8_t bytes[kScanPassHeads][kScanMaxDim];  // the same; 0 up to a multiple of 64
  int32_t sum[kScanPassHeads];                            // of the head's codes
  float half_offset[kScanPassHeads];                      // half of max_code times the sum of the head's codes, exact
  float scale[kScanPassHeads];                            // of a code, softmax_scale included
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
  int16_t* const codes = to->codes[head];
  int32_t sum = 0;
  for (uint32_t dim = 0; dim < layout.padded_dim; ++dim) {
    const float scaled = is_finite && dim < layout.head_dim ? q[dim] * to_code : 0.0f;
    codes[dim] = static_cast<int16_t>(lrintf(scaled < 127.0f ? scaled : 127.0f));
    sum += codes[dim];
  }
  const uint32_t set_begin = head / kScanSharedHeads * kScanSharedHeads * (layout.padded_dim / 4);
  uint32_t* words = to->words + (set_begin + head % kScanSharedHeads) * Lanes::kQuadWords;
  for (uint32_t dim = 0; dim < layout.padded_dim; dim += 4) {
    const int8_t quad[4] = {static_cast<int8_t>(codes[dim]), static_cast<int8_t>(codes[dim + 1]),
                            static_cast<int8_t>(codes[dim + 2]), static_cast<int8_t>(codes[dim + 3])};
    Lanes::PackQuad(quad, words);
    words += kScanSharedHeads * Lanes::kQuadWords;
  }
  for (uint32_t dim = 0; dim < kScanMaxDim; ++dim) {
    to->bytes[head][dim] = static_cast<int8_t>(dim < layout.padded_dim ? codes[dim] : 0);
  }
  to->sum[head] = sum;
  to->half_offset[head] = 0.5f * static_cast<float>(static_cast<int32_t>((1u << layout.bits) - 1) * sum);
  to->scale[head] = is_finite ? largest / 127.0f * args.softmax_scale : NAN;
}

// Each head's score with the mean of the record's keys.
template <uint32_t kHeads>
inline void ScoreMean(const KeyCodeLayout& layout, const uint8_t* record, const ScanQueries& queries, uint32_t head,
                      float (&scores)[kHeads]) {
  const auto* const mean = reinterpret_cast<const int8_t*>(record + layout.mean_begin);
  float scale;
  __builtin_memcpy(&scale, record + layout.mean_scale_begin, sizeof(scale));
  for (uint32_t h = 0; h < kHeads; ++h) {
    const int32_t dot = Lanes::DotCodes(mean, queries.codes[head + h], queries.bytes[head + h], queries.sum[head + h],
                                        layout.padded_dim);
    scores[h] = static_cast<float>(dot) * (scale * queries.scale[head + h]);
  }
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

// Of kHeads heads, from `head` of the queries on.
template <uint32_t kHeads>
struct ScanHeadsState {
  uint32_t head = 0;
  float least[kHeads];
  FoundKeys* found = nullptr;
  float mean_scores[kHeads];  // of the record at hand
};

// Appends those of kVectors vectors of tokens whose score is not less than the head's threshold.
inline void AppendFound(const Lanes::F (&scores)[Lanes::kVectors], float least, uint32_t first_id, FoundKeys* found) {
  uint64_t bits = 0;
  const Lanes::F limit = Lanes::BroadcastF(least);
#pragma GCC unroll 4
  for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
    bits |= uint64_t{Lanes::NotLess(scores[v], limit)} << (v * Lanes::kLanes);
  }
  if (bits == 0) return;
  Lanes::CompressVectors(first_id, scores, bits, found->ids + found->count, found->scores + found->count);
  found->count += static_cast<uint32_t>(__builtin_popcountll(bits));
}

// Makes a head's exact sums, of kVectors vectors of tokens from `token` of the record on, into scores, and keeps what
// reaches the threshold.
inline void KeepScores(const Lanes::I (&sums)[Lanes::kVectors], const KeyCodeLayout& layout, const uint8_t* record,
                       uint32_t token, uint32_t first_id, const ScanQueries& queries, uint32_t head, float mean_score,
                       float least, FoundKeys* found) {
  const auto* scales = reinterpret_cast<const float*>(record + layout.scales_begin) + token;
  const Lanes::F half_offset = Lanes::BroadcastF(queries.half_offset[head]);
  const Lanes::F scale = Lanes::BroadcastF(queries.scale[head]);
  const Lanes::F mean = Lanes::BroadcastF(mean_score);
  Lanes::F scores[Lanes::kVectors];
#pragma GCC unroll 4
  for (uint32_t v = 0; v < Lanes::kVectors; ++v) {
    const Lanes::F levels = Lanes::SubF(Lanes::ToFloat(sums[v]), half_offset);
    const Lanes::F factor = Lanes::MulF(Lanes::LoadF(scales + v * Lanes::kLanes), scale);
    scores[v] = Lanes::MulAdd(levels, factor, mean);
  }
  AppendFound(scores, least, first_id + token, found);
}

// kVectors vectors of tokens, from `token` of the record on.
template <uint32_t kBits, uint32_t kHeads>
inline void ScanTokens(const KeyCodeLayout& layout, const uint8_t* record, uint32_t token, uint32_t first_id,
                       const ScanQueries& queries, const ScanHeadsState<kHeads>& state) {
  Lanes::I sums[kHeads][Lanes::kVectors];
#pragma GCC unroll 4
  for (auto& of_head : sums) {
#pragma GCC unroll 4
    for (Lanes::I& sum : of_head) sum = Lanes::ZeroI();
  }
  constexpr uint32_t kWordDims = 32 / kBits;
  const uint32_t* query_words = queries.words + state.head * (layout.padded_dim / 4) * Lanes::kQuadWords;
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
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    KeepScores(sums[h], layout, record, token, first_id, queries, state.head + h, state.mean_scores[h], state.least[h],
               state.found + h);
  }
}

template <uint32_t kBits, uint32_t kHeads>
inline void ScanRecords(const ScoreKeysArgs& args, const ScanQueries& queries, uint32_t head, uint32_t first_head) {
  ScanHeadsState<kHeads> state;
  state.head = head;
  state.found = args.found + first_head + head;
  for (uint32_t h = 0; h < kHeads; ++h) state.least[h] = args.least[first_head + head + h];
  const auto* record = static_cast<const uint8_t*>(args.records);
  const uint32_t step = args.record_step * kKeyCodeRecordTokens;
  for (uint32_t token = 0; token < args.num_tokens; token += step) {
    ScoreMean<kHeads>(args.layout, record, queries, head, state.mean_scores);
    for (uint32_t lane = 0; lane < kKeyCodeRecordTokens; lane += Lanes::kVectors * Lanes::kLanes) {
      ScanTokens<kBits, kHeads>(args.layout, record, lane, args.first_id + token, queries, state);
    }
    record += uint64_t{args.record_step} * args.layout.record_bytes;
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
