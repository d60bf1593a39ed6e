// Scoring tokens by the codes of their keys on AMX tiles (tdpbsud), for the Lanes of select_lanes_avx512.h. Included
// after key_scores-inl.h, whose queries and thresholds it shares; sums are exact in both, so the scores are the same.
//
// What a word of codes is unpacked into, a quad of dims of each of 16 tokens, is a row of a tile's second factor. 16
// quads are a tile, and one instruction then scores 16 tokens for up to 16 heads: unpacking costs as much for one head
// as for 16, where the dot products of AVX-512 cost as much again for each four.
//
// Tiles are read from memory that was written just before, which stalls until the stores have left the core. So three
// records are in work at a time: one is unpacked, one is multiplied, of one the sums are made into scores.
#pragma once

#include <immintrin.h>

namespace tributary {
namespace TRIBUTARY_KERNEL_ISA {
namespace {

// Fewer heads share one load of codes without tiles, and are dotted sooner than unpacked: at four, tiles take 1.14
// (d 64) to 1.32 (d 128) times as long on 16 threads of a Sapphire Rapids.
constexpr uint32_t kTileMinHeads = kScanSharedHeads + 1;
constexpr uint32_t kTileRows = 16;
constexpr uint32_t kTileDims = 64;  // 16 quads
constexpr uint32_t kMaxTileDims = (kScanMaxDim + kTileDims - 1) / kTileDims * kTileDims;
constexpr uint32_t kRecordSlots = kKeyCodeRecordTokens / Lanes::kLanes;
// Of the codes of a slot, with some that nobody uses: slots at a distance of 4 KiB would wait for each other's stores.
constexpr uint32_t kSlotRows = kMaxTileDims / 4 + 5;

// The memory operand of ldtilecfg.
struct alignas(64) ScanTileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(ScanTileConfig) == 64);

// Tiles: 0 and 1 the sums [head][16 tokens] of two slots; 2 and 3 their codes [quad][16 tokens]; from 4 on q [head][64
// dims].
inline void ConfigureScanTiles(uint32_t num_heads) {
  ScanTileConfig config = {};
  config.palette = 1;
  for (uint32_t tile = 0; tile < 8; ++tile) {
    config.rows[tile] = static_cast<uint8_t>(tile == 2 || tile == 3 ? kTileRows : num_heads);
    config.row_bytes[tile] = 64;
  }
  _tile_loadconfig(&config);
}

// What the steps of a scan hand on. Unpacked dims beyond padded_dim stay 0.
struct ScanTiles {
  alignas(64) int8_t q[kMaxTileDims / kTileDims][kTileRows][kTileDims];
  alignas(64) uint32_t codes[2][kRecordSlots][kSlotRows][Lanes::kLanes];
  alignas(64) uint32_t sums[2][kTileRows][kKeyCodeRecordTokens];
};

inline void PrepareScanTiles(const KeyCodeLayout& layout, const ScanQueries& queries, uint32_t num_heads,
                             ScanTiles* tiles) {
  __builtin_memset(tiles->q, 0, sizeof(tiles->q));
  __builtin_memset(tiles->codes, 0, sizeof(tiles->codes));
  for (uint32_t head = 0; head < num_heads; ++head) {
    for (uint32_t dim = 0; dim < layout.padded_dim; ++dim) {
      tiles->q[dim / kTileDims][head][dim % kTileDims] = static_cast<int8_t>(queries.codes[head][dim]);
    }
  }
}

template <uint32_t kBits, uint32_t kPart = 0>
inline void UnpackWord(Lanes::I word, uint32_t (*to)[Lanes::kLanes]) {
  if constexpr (kPart * kBits < 8) {
    constexpr uint32_t kMask = ((1u << kBits) - 1) * 0x01010101u;
    Lanes::StoreI(to[kPart], Lanes::AndI(Lanes::template ShiftRight<kPart * kBits>(word), Lanes::BroadcastI(kMask)));
    UnpackWord<kBits, kPart + 1>(word, to);
  }
}

template <uint32_t kBits>
inline void UnpackRecord(const KeyCodeLayout& layout, const uint8_t* record, uint32_t (*to)[kSlotRows][Lanes::kLanes]) {
  constexpr uint32_t kWordDims = 32 / kBits;
  for (uint32_t dim = 0; dim < layout.padded_dim; dim += kWordDims) {
#pragma GCC unroll 4
    for (uint32_t slot = 0; slot < kRecordSlots; ++slot) {
      __builtin_prefetch(record + slot * 64 + kScanPrefetchBytes);
      UnpackWord<kBits>(Lanes::LoadI(record + slot * 64), to[slot] + dim / 4);
    }
    record += kKeyCodeRecordTokens * 4;
  }
}

// q of up to 256 dims lies in the tiles 4 to 7.
inline void LoadQueryTiles(uint32_t num_chunks, const ScanTiles& tiles) {
  _tile_loadd(4, tiles.q[0], kTileDims);
  if (num_chunks > 1) _tile_loadd(5, tiles.q[1], kTileDims);
  if (num_chunks > 2) _tile_loadd(6, tiles.q[2], kTileDims);
  if (num_chunks > 3) _tile_loadd(7, tiles.q[3], kTileDims);
}
static_assert(kMaxTileDims <= 4 * kTileDims);

// The sums of two slots, whose codes lie at `first` and `second`.
inline void MultiplySlots(uint32_t num_chunks, const uint32_t (*first)[Lanes::kLanes],
                          const uint32_t (*second)[Lanes::kLanes], uint32_t* sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_loadd(2, first, 64);
  _tile_dpbsud(0, 4, 2);
  _tile_loadd(3, second, 64);
  _tile_dpbsud(1, 4, 3);
  if (num_chunks > 1) {
    _tile_loadd(2, first + kTileRows, 64);
    _tile_dpbsud(0, 5, 2);
    _tile_loadd(3, second + kTileRows, 64);
    _tile_dpbsud(1, 5, 3);
  }
  if (num_chunks > 2) {
    _tile_loadd(2, first + 2 * kTileRows, 64);
    _tile_dpbsud(0, 6, 2);
    _tile_loadd(3, second + 2 * kTileRows, 64);
    _tile_dpbsud(1, 6, 3);
  }
  if (num_chunks > 3) {
    _tile_loadd(2, first + 3 * kTileRows, 64);
    _tile_dpbsud(0, 7, 2);
    _tile_loadd(3, second + 3 * kTileRows, 64);
    _tile_dpbsud(1, 7, 3);
  }
  _tile_stored(0, sums, kKeyCodeRecordTokens * sizeof(uint32_t));
  _tile_stored(1, sums + Lanes::kLanes, kKeyCodeRecordTokens * sizeof(uint32_t));
}

// Makes the sums of one record into scores of all heads, and keeps what reaches the thresholds.
inline void KeepRecord(const ScoreKeysArgs& args, const uint8_t* record, uint32_t first_id, const ScanQueries& queries,
                       uint32_t num_heads, uint32_t first_head, const uint32_t (*sums)[kKeyCodeRecordTokens]) {
  for (uint32_t head = 0; head < num_heads; ++head) {
    float mean_score[1];
    ScoreMean<1>(args.layout, record, queries, head, mean_score);
    Lanes::I of_head[Lanes::kVectors];
#pragma GCC unroll 4
    for (uint32_t v = 0; v < Lanes::kVectors; ++v) of_head[v] = Lanes::LoadI(sums[head] + v * Lanes::kLanes);
    KeepScores(of_head, args.layout, record, 0, first_id, queries, head, mean_score[0], args.least[first_head + head],
               args.found + first_head + head);
  }
}

template <uint32_t kBits>
inline void ScanRecordsByTiles(const ScoreKeysArgs& args, const ScanQueries& queries, uint32_t num_heads,
                               uint32_t first_head, ScanTiles* tiles) {
  static_assert(Lanes::kVectors * Lanes::kLanes == kKeyCodeRecordTokens && kRecordSlots == 4);
  const uint32_t num_chunks = (args.layout.padded_dim + kTileDims - 1) / kTileDims;
  const auto* const records = static_cast<const uint8_t*>(args.records);
  const uint64_t stride = uint64_t{args.record_step} * args.layout.record_bytes;
  const uint32_t step = args.record_step * kKeyCodeRecordTokens;
  const uint32_t num_records = (args.num_tokens + step - 1) / step;
  ConfigureScanTiles(num_heads);
  LoadQueryTiles(num_chunks, *tiles);
  for (uint32_t i = 0; i < num_records + 2; ++i) {
    if (i < num_records) UnpackRecord<kBits>(args.layout, records + i * stride, tiles->codes[i % 2]);
    if (i >= 1 && i - 1 < num_records) {
      const uint32_t which = (i - 1) % 2;
      for (uint32_t slot = 0; slot < kRecordSlots; slot += 2) {
        MultiplySlots(num_chunks, tiles->codes[which][slot], tiles->codes[which][slot + 1],
                      tiles->sums[which][0] + slot * Lanes::kLanes);
      }
    }
    if (i >= 2) {
      KeepRecord(args, records + (i - 2) * stride, args.first_id + (i - 2) * step, queries, num_heads, first_head,
                 tiles->sums[i % 2]);
    }
  }
  _tile_release();
}

template <uint32_t kBits>
inline void ScanHeadsByTiles(const ScoreKeysArgs& args) {
  ScanQueries queries;
  ScanTiles tiles;
  for (uint32_t first = 0; first < args.group_size; first += kTileRows) {
    const uint32_t left = args.group_size - first;
    const uint32_t num_heads = left < kTileRows ? left : kTileRows;
    for (uint32_t head = 0; head < num_heads; ++head) {
      PrepareHead(args, args.q + uint64_t{first + head} * args.layout.head_dim, head, &queries);
    }
    PrepareScanTiles(args.layout, queries, num_heads, &tiles);
    ScanRecordsByTiles<kBits>(args, queries, num_heads, first, &tiles);
  }
}
static_assert(kTileRows <= kScanPassHeads);

void ScoreKeysByTiles(const ScoreKeysArgs& args) {
  if (args.group_size < kTileMinHeads) return ScoreKeys(args);
  switch (args.layout.bits) {
    case 1:
      ScanHeadsByTiles<1>(args);
      break;
    case 2:
      ScanHeadsByTiles<2>(args);
      break;
    default:
      ScanHeadsByTiles<4>(args);
  }
}

}  // namespace
}  // namespace TRIBUTARY_KERNEL_ISA
}  // namespace tributary
