// Primitives of bf16 on AMX tiles (tdpbf16ps). The stored layout is what the instruction wants as its second factor:
// rows of lanes, a pair of dims (K) or of tokens (V) each. Included after prim_bf16_dot-inl.h, whose split of q and
// rounding of weights it shares.
//
// A tile of sums has up to 16 query rows; with 64 rows tiles are three times as fast as the dot products of AVX-512.
// Calls of fewer than kAmxMinRows rows do not come here (amx.cc), but parts of calls do: the dot products take those.
#pragma once

#include <immintrin.h>

#include "cpu_attention_service/kernels/kernel_step.h"

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

constexpr uint32_t kAmxMinRows = 8;
constexpr uint32_t kAmxRows = 16;   // of a tile
constexpr uint32_t kAmxPairs = 16;  // dim pairs of a tile of K

// The memory operand of ldtilecfg.
struct alignas(64) TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

inline void SetTile(TileConfig* config, uint32_t tile, uint32_t rows, uint32_t row_bytes) {
  config->rows[tile] = static_cast<uint8_t>(rows);
  config->row_bytes[tile] = static_cast<uint16_t>(row_bytes);
}

inline void LoadTileConfig(const TileConfig& config) { _tile_loadconfig(&config); }

// Prepared: a Bf16Q, then hi [row][padded_dim] and lo [row][padded_dim] as bf16.
inline void PrepareAmxQ(const KernelRows& rows, const float* q, void* prepared) {
  const uint32_t count = rows.num_rows * rows.padded_dim;
  uint16_t* hi = reinterpret_cast<uint16_t*>(static_cast<Bf16Q*>(prepared) + 1);
  uint16_t* lo = hi + count;
  __m256i any_lo = _mm256_setzero_si256();
  for (uint32_t i = 0; i < count; i += 16) {
    __m256i hi_bits, lo_bits;
    SplitBf16(_mm512_loadu_ps(q + i), &hi_bits, &lo_bits);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(hi + i), hi_bits);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lo + i), lo_bits);
    any_lo = _mm256_or_si256(any_lo, lo_bits);
  }
  static_cast<Bf16Q*>(prepared)->num_parts = NumBf16Parts(any_lo);
}

inline void PrefetchLines(const unsigned char* from, uint32_t lines, uint32_t stride) {
  for (uint32_t i = 0; i < lines; ++i) PrefetchCodeLine(from + i * stride);
}

// Tiles: 0 the scores [row][16 tokens]; 1 and 2 q and K of 16 pairs; 3 and 4 of the last 8.
inline void ConfigureScoreTiles(uint32_t num_rows) {
  TileConfig config = {};
  config.palette = 1;
  SetTile(&config, 0, num_rows, 64);
  SetTile(&config, 1, num_rows, 64);
  SetTile(&config, 2, kAmxPairs, 64);
  SetTile(&config, 3, num_rows, 32);
  SetTile(&config, 4, kAmxPairs / 2, 64);
  LoadTileConfig(config);
}

inline void ScoreAmxSlot(const KernelRows& rows, uint32_t num_parts, const uint16_t* q, const unsigned char* k,
                         const unsigned char* next_k, float* scores) {
  const uint32_t num_pairs = rows.padded_dim / 2;
  const uint32_t q_stride = rows.padded_dim * 2;
  const uint32_t part_elements = rows.num_rows * rows.padded_dim;
  _tile_zero(0);
  uint32_t pair = 0;
  for (; pair + kAmxPairs <= num_pairs; pair += kAmxPairs) {
    if (next_k != nullptr) PrefetchLines(next_k + pair * 64, kAmxPairs, 64);
    _tile_loadd(2, k + pair * 64, 64);
    for (uint32_t part = 0; part < num_parts; ++part) {
      _tile_loadd(1, q + part * part_elements + 2 * pair, q_stride);
      _tile_dpbf16ps(0, 1, 2);
    }
  }
  if (pair < num_pairs) {
    if (next_k != nullptr) PrefetchLines(next_k + pair * 64, kAmxPairs / 2, 64);
    _tile_loadd(4, k + pair * 64, 64);
    for (uint32_t part = 0; part < num_parts; ++part) {
      _tile_loadd(3, q + part * part_elements + 2 * pair, q_stride);
      _tile_dpbf16ps(0, 3, 4);
    }
  }
  _tile_stored(0, scores, kKvTileTokens * sizeof(float));
}

inline void ScoreAmx(const KernelRows& rows, const void* prepared, const KernelStep& step, float* scores) {
  const uint32_t num_parts = static_cast<const Bf16Q*>(prepared)->num_parts;
  const uint16_t* q = reinterpret_cast<const uint16_t*>(static_cast<const Bf16Q*>(prepared) + 1);
  for (uint32_t row = 0; row < rows.num_rows; row += kAmxRows) {
    const uint32_t rest = rows.num_rows - row;
    ConfigureScoreTiles(rest < kAmxRows ? rest : kAmxRows);
    for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
      const bool prefetch = step.prefetch && row == 0;
      ScoreAmxSlot(rows, num_parts, q + row * rows.padded_dim, step.k[slot], prefetch ? step.next_k[slot] : nullptr,
                   scores + row * kKvTileTokens + slot * kKvSubgroupTokens);
    }
  }
  _tile_release();
}

// Tiles: 0 to 3 sums [row][16 dims]; 4 the weights [row][16 tokens]; 5 V [8 token pairs][16 dims].
inline void ConfigureValueTiles(uint32_t num_rows) {
  TileConfig config = {};
  config.palette = 1;
  for (uint32_t tile = 0; tile < 4; ++tile) SetTile(&config, tile, num_rows, 64);
  SetTile(&config, 4, num_rows, 32);
  SetTile(&config, 5, kKvSubgroupTokens / 2, 64);
  SetTile(&config, 6, kKvSubgroupTokens / 2, 64);
  LoadTileConfig(config);
}

// 64 dims of a slot.
inline void AccumulateAmxStrip(const unsigned char* v, uint32_t acc_stride, float* acc) {
  constexpr uint32_t kVStride = kKvStripDims * 4;
  _tile_loadd(0, acc, acc_stride);
  _tile_loadd(1, acc + 16, acc_stride);
  _tile_loadd(2, acc + 32, acc_stride);
  _tile_loadd(3, acc + 48, acc_stride);
  _tile_loadd(5, v, kVStride);
  _tile_dpbf16ps(0, 4, 5);
  _tile_loadd(6, v + 64, kVStride);
  _tile_dpbf16ps(1, 4, 6);
  _tile_loadd(5, v + 128, kVStride);
  _tile_dpbf16ps(2, 4, 5);
  _tile_loadd(6, v + 192, kVStride);
  _tile_dpbf16ps(3, 4, 6);
  _tile_stored(0, acc, acc_stride);
  _tile_stored(1, acc + 16, acc_stride);
  _tile_stored(2, acc + 32, acc_stride);
  _tile_stored(3, acc + 48, acc_stride);
}

inline void AccumulateAmxSlot(const uint32_t* pairs, uint32_t padded_dim, const unsigned char* v,
                              const unsigned char* next_v, float* acc) {
  const uint32_t acc_stride = padded_dim * sizeof(float);
  _tile_loadd(4, pairs, kKvTileTokens / 2 * sizeof(uint32_t));
  for (uint32_t strip = 0; strip < padded_dim; strip += kKvStripDims) {
    const uint32_t rest = padded_dim - strip;
    const uint32_t dims = rest < kKvStripDims ? rest : kKvStripDims;
    const uint32_t strip_lines = dims * kKvSubgroupTokens * 2 / 64;
    if (next_v != nullptr) {
      PrefetchLines(next_v, strip_lines, 64);
      next_v += strip_lines * 64;
    }
    if (dims == kKvStripDims) {
      AccumulateAmxStrip(v, acc_stride, acc + strip);
    } else {
      for (uint32_t dim = 0; dim < dims; dim += 16) {
        _tile_loadd(0, acc + strip + dim, acc_stride);
        _tile_loadd(5, v + dim * 4, dims * 4);
        _tile_dpbf16ps(0, 4, 5);
        _tile_stored(0, acc + strip + dim, acc_stride);
      }
    }
    v += strip_lines * 64;
  }
}

inline void AccumulateAmx(const KernelRows& rows, const KernelStep& step, float* weights, float* weight_sum,
                          float* acc) {
  Bf16Weights rounded;
  RoundWeights(rows, step.num_slots, weights, weight_sum, &rounded);
  for (uint32_t row = 0; row < rows.num_rows; row += kAmxRows) {
    const uint32_t rest = rows.num_rows - row;
    ConfigureValueTiles(rest < kAmxRows ? rest : kAmxRows);
    for (uint32_t slot = 0; slot < step.num_slots; ++slot) {
      const bool prefetch = step.prefetch && row == 0;
      AccumulateAmxSlot(rounded.pairs[row] + slot * kKvSubgroupTokens / 2, rows.padded_dim, step.v[slot],
                        prefetch ? step.next_v[slot] : nullptr, acc + row * rows.padded_dim);
    }
  }
  _tile_release();
}

// The number of rows is the same in all calls of one attention call, so `prepared` is read as it was written.
inline void PrepareBf16QForTiles(const KernelRows& rows, const float* q, void* prepared) {
  if (rows.num_rows < kAmxMinRows) {
    PrepareBf16Q(rows, q, prepared);
  } else {
    PrepareAmxQ(rows, q, prepared);
  }
}
inline void ScoreBf16Tiles(const KernelRows& rows, const void* prepared, const KernelStep& step, float* scores) {
  if (rows.num_rows < kAmxMinRows) {
    ScoreBf16Dot(rows, prepared, step, scores);
  } else {
    ScoreAmx(rows, prepared, step, scores);
  }
}
// At an edge the driver may pass the rows of one query token only: either way gives sums over the same weights.
inline void AccumulateBf16Tiles(const KernelRows& rows, const KernelStep& step, float* weights, float* weight_sum,
                                float* acc) {
  if (rows.num_rows < kAmxMinRows) {
    AccumulateBf16Dot(rows, step, weights, weight_sum, acc);
  } else {
    AccumulateAmx(rows, step, weights, weight_sum, acc);
  }
}

constexpr KPrimitive kBf16TilesK = {&PrepareBf16QForTiles, &ScoreBf16Tiles};
constexpr VPrimitive kBf16TilesV = {&AccumulateBf16Tiles, /*exact_weights=*/false};

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
