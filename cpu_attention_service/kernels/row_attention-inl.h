// Flash-decode over one run of tokens, written once against the primitives of a vec_*.h.
//
// A source that instantiates it defines the namespace TRIBUTARY_KERNEL_ISA, includes its vec_*.h
// (which defines `Vec` in that namespace) and then this file. Everything has internal linkage, and
// nothing of the standard library is called but logf: see row_attention_args.h.
//
// Tokens are taken in tiles of kTileTokens. Per tile and query head: scores, running maximum,
// weights, sum; then the weighted values are added to `out`, which is rescaled when the maximum
// rises. Rows are first widened to f32 in blocks of kBlockTokens (a block stays in the L1 cache),
// so that all arithmetic is f32 whatever the storage, and each stored row is read once for the
// whole group. A new storage type needs one more Widen.
#include <math.h>

#include "cpu_attention_service/kernels/row_attention_args.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

constexpr uint32_t kTileTokens = 64;
constexpr uint32_t kBlockTokens = 16;
constexpr uint32_t kRowAlign = 16;  // f32 elements; widened rows are padded to it with zeros
constexpr uint32_t kDimUnroll = 4;  // vectors of `out` held in registers, times two query heads
static_assert(kTileTokens % kBlockTokens == 0 && kBlockTokens % Vec::kLanes == 0);
static_assert(kRowAlign % Vec::kLanes == 0 && limits::kMaxHeadDim % kRowAlign == 0);

inline uint32_t Min(uint32_t a, uint32_t b) { return a < b ? a : b; }

// State of one call. About 100 KiB at the largest geometry, on the stack; only what the geometry
// needs is touched.
struct RowScratch {
  alignas(64) float block[kBlockTokens * limits::kMaxHeadDim];     // widened rows
  alignas(64) float weights[limits::kMaxGroupSize * kTileTokens];  // scores, then weights
  float max_score[limits::kMaxGroupSize];
  float sum[limits::kMaxGroupSize];
};

// f32 rows of a block: either widened into scratch or, when they need nothing, where they lie.
struct Rows {
  const float* data;
  uint32_t stride;
};

template <KvStorage kStorage>
inline Vec Widen(const void* source, uint32_t index, uint32_t lanes) {
  if constexpr (kStorage == KvStorage::kF32) {
    return Vec::Load(static_cast<const float*>(source) + index, lanes);
  } else if constexpr (kStorage == KvStorage::kBf16) {
    return Vec::LoadBf16(static_cast<const uint16_t*>(source) + index, lanes);
  } else {
    return Vec::LoadF16(static_cast<const uint16_t*>(source) + index, lanes);
  }
}

template <KvStorage kStorage>
void WidenRows(const void* source, uint32_t first_row, uint32_t num_rows, uint32_t head_dim,
               uint32_t stride, float* block) {
  for (uint32_t row = 0; row < kBlockTokens; ++row) {
    float* to = block + row * stride;
    if (row >= num_rows) {  // rows that are not there: zeros, so that no stray NaN is computed with
      for (uint32_t d = 0; d < stride; d += Vec::kLanes) Vec::Zero().Store(to + d, Vec::kLanes);
      continue;
    }
    const void* from = static_cast<const char*>(source) +
                       uint64_t{first_row + row} * head_dim * (kStorage == KvStorage::kF32 ? 4 : 2);
    for (uint32_t d = 0; d < stride; d += Vec::kLanes) {
      const uint32_t lanes = d < head_dim ? Min(Vec::kLanes, head_dim - d) : 0;
      Widen<kStorage>(from, d, lanes)
          .Store(to + d, Vec::kLanes);  // lanes beyond head_dim load as zero
    }
  }
}

// Rows [first_row, first_row + num_rows) of a K or V stream, as kBlockTokens rows of f32.
inline Rows BlockRows(KvStorage storage, const void* source, uint32_t first_row, uint32_t num_rows,
                      uint32_t head_dim, float* block) {
  if (storage == KvStorage::kF32 && num_rows == kBlockTokens && head_dim % Vec::kLanes == 0) {
    return {static_cast<const float*>(source) + uint64_t{first_row} * head_dim, head_dim};
  }
  const uint32_t stride = (head_dim + kRowAlign - 1) / kRowAlign * kRowAlign;
  switch (storage) {
    case KvStorage::kF32:
      WidenRows<KvStorage::kF32>(source, first_row, num_rows, head_dim, stride, block);
      break;
    case KvStorage::kBf16:
      WidenRows<KvStorage::kBf16>(source, first_row, num_rows, head_dim, stride, block);
      break;
    default:
      WidenRows<KvStorage::kF16>(source, first_row, num_rows, head_dim, stride, block);
      break;
  }
  return {block, stride};
}

// scores[0 .. kBlockTokens) = softmax_scale * q . k_row, kLanes rows at a time, each with an
// accumulator of its own.
inline void ScoreBlock(const float* q, Rows k, uint32_t head_dim, float softmax_scale,
                       float* scores) {
  for (uint32_t first = 0; first < kBlockTokens; first += Vec::kLanes) {
    const float* row = k.data + first * k.stride;
    Vec sums[Vec::kLanes];
    for (Vec& sum : sums) sum = Vec::Zero();
    for (uint32_t d = 0; d < head_dim; d += Vec::kLanes) {
      const Vec q_lanes = Vec::Load(q + d, Min(Vec::kLanes, head_dim - d));
      for (uint32_t i = 0; i < Vec::kLanes; ++i) {
        sums[i] = MulAdd(q_lanes, Vec::Load(row + i * k.stride + d, Vec::kLanes), sums[i]);
      }
    }
    Mul(ReduceEach(sums), Vec::Broadcast(softmax_scale)).Store(scores + first, Vec::kLanes);
  }
}

// Turns one query head's scores of a tile into weights exp(score - maximum). Returns the factor for
// what came before.
inline float TileWeights(uint32_t num_tokens, float* weights, float* max_score, float* sum) {
  for (uint32_t t = num_tokens; t < kTileTokens; ++t) weights[t] = -INFINITY;
  Vec tile_max = Vec::Load(weights, Vec::kLanes);
  for (uint32_t t = Vec::kLanes; t < kTileTokens; t += Vec::kLanes) {
    tile_max = Max(tile_max, Vec::Load(weights + t, Vec::kLanes));
  }
  const float highest = ReduceMax(tile_max);
  const float old_max = *max_score;
  // Tokens whose scores are all -inf (Inf in K) make `highest` -inf and the weights NaN: they
  // propagate, as they must.
  const float new_max = highest > old_max ? highest : old_max;
  Vec tile_sum = Vec::Zero();
  for (uint32_t t = 0; t < kTileTokens; t += Vec::kLanes) {
    const Vec weight = Exp(Sub(Vec::Load(weights + t, Vec::kLanes), Vec::Broadcast(new_max)));
    weight.Store(weights + t, Vec::kLanes);
    tile_sum = Add(tile_sum, weight);
  }
  float keep = 1.0f;
  if (new_max != old_max) {
    float lanes[Vec::kLanes];
    Exp(Sub(Vec::Broadcast(old_max), Vec::Broadcast(new_max))).Store(lanes, Vec::kLanes);
    keep = lanes[0];
  }
  *max_score = new_max;
  *sum = *sum * keep + ReduceAdd(tile_sum);
  return keep;
}

// out[head] += sum_t weights[head][t] * v_row[t] for kHeads query heads and kDims vectors of `out`,
// all in registers.
template <uint32_t kHeads, uint32_t kDims>
inline void AddValues(const float* weights, Rows v, uint32_t head_dim, uint32_t d0,
                      uint32_t last_lanes, float* out) {
  Vec sums[kHeads][kDims];
  for (uint32_t h = 0; h < kHeads; ++h) {
    for (uint32_t i = 0; i < kDims; ++i) {
      sums[h][i] = Vec::Load(out + h * head_dim + d0 + i * Vec::kLanes,
                             i + 1 == kDims ? last_lanes : Vec::kLanes);
    }
  }
  for (uint32_t t = 0; t < kBlockTokens; ++t) {
    const float* row = v.data + t * v.stride + d0;
    Vec values[kDims];
    for (uint32_t i = 0; i < kDims; ++i) values[i] = Vec::Load(row + i * Vec::kLanes, Vec::kLanes);
    for (uint32_t h = 0; h < kHeads; ++h) {
      const Vec weight = Vec::Broadcast(weights[h * kTileTokens + t]);
      for (uint32_t i = 0; i < kDims; ++i) sums[h][i] = MulAdd(weight, values[i], sums[h][i]);
    }
  }
  for (uint32_t h = 0; h < kHeads; ++h) {
    for (uint32_t i = 0; i < kDims; ++i) {
      sums[h][i].Store(out + h * head_dim + d0 + i * Vec::kLanes,
                       i + 1 == kDims ? last_lanes : Vec::kLanes);
    }
  }
}

template <uint32_t kHeads>
inline void AddValuesOfHeads(const float* weights, Rows v, uint32_t head_dim, float* out) {
  constexpr uint32_t kStep = kDimUnroll * Vec::kLanes;
  uint32_t d = 0;
  for (; d + kStep <= head_dim; d += kStep) {
    AddValues<kHeads, kDimUnroll>(weights, v, head_dim, d, Vec::kLanes, out);
  }
  for (; d < head_dim; d += Vec::kLanes) {
    AddValues<kHeads, 1>(weights, v, head_dim, d, Min(Vec::kLanes, head_dim - d), out);
  }
}

inline void ScaleRow(float factor, uint32_t head_dim, float* out) {
  for (uint32_t d = 0; d < head_dim; d += Vec::kLanes) {
    const uint32_t lanes = Min(Vec::kLanes, head_dim - d);
    Mul(Vec::Load(out + d, lanes), Vec::Broadcast(factor)).Store(out + d, lanes);
  }
}

inline void AttendTile(const RowAttentionArgs& args, uint32_t tile_begin, uint32_t tile_tokens,
                       RowScratch& scratch) {
  const uint32_t head_dim = args.head_dim;
  for (uint32_t t = 0; t < tile_tokens; t += kBlockTokens) {
    const Rows k = BlockRows(args.k_storage, args.k, tile_begin + t,
                             Min(kBlockTokens, tile_tokens - t), head_dim, scratch.block);
    for (uint32_t h = 0; h < args.group_size; ++h) {
      ScoreBlock(args.q + h * head_dim, k, head_dim, args.softmax_scale,
                 scratch.weights + h * kTileTokens + t);
    }
  }
  for (uint32_t h = 0; h < args.group_size; ++h) {
    const float keep = TileWeights(tile_tokens, scratch.weights + h * kTileTokens,
                                   &scratch.max_score[h], &scratch.sum[h]);
    if (keep != 1.0f) ScaleRow(keep, head_dim, args.out + h * head_dim);
  }
  for (uint32_t t = 0; t < tile_tokens; t += kBlockTokens) {
    const Rows v = BlockRows(args.v_storage, args.v, tile_begin + t,
                             Min(kBlockTokens, tile_tokens - t), head_dim, scratch.block);
    uint32_t h = 0;
    for (; h + 2 <= args.group_size; h += 2) {
      AddValuesOfHeads<2>(scratch.weights + h * kTileTokens + t, v, head_dim,
                          args.out + h * head_dim);
    }
    if (h < args.group_size) {
      AddValuesOfHeads<1>(scratch.weights + h * kTileTokens + t, v, head_dim,
                          args.out + h * head_dim);
    }
  }
}

void RowAttention(const RowAttentionArgs& args) {
  RowScratch scratch;
  for (uint32_t h = 0; h < args.group_size; ++h) {
    scratch.max_score[h] = -INFINITY;
    scratch.sum[h] = 0.0f;
  }
  for (uint64_t i = 0; i < uint64_t{args.group_size} * args.head_dim; ++i) args.out[i] = 0.0f;
  for (uint32_t t = 0; t < args.num_tokens; t += kTileTokens) {
    AttendTile(args, t, Min(kTileTokens, args.num_tokens - t), scratch);
  }
  for (uint32_t h = 0; h < args.group_size; ++h) {
    if (args.num_tokens == 0) {
      args.lse_ln[h] = -INFINITY;
      continue;
    }
    ScaleRow(1.0f / scratch.sum[h], args.head_dim, args.out + h * args.head_dim);
    args.lse_ln[h] = scratch.max_score[h] + logf(scratch.sum[h]);
  }
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
