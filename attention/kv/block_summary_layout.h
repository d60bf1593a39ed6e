// How the summaries of a stream's blocks lie in memory: what a policy reads instead of the keys to choose blocks.
//
// A block is 16 to 128 consecutive tokens of one stream (layer, KV head). Its summary is one row per number that the
// query is multiplied with: the mean key (head_dim rows), or the channel-wise maximum and then minimum of the keys
// (2 x head_dim rows; Quest, Tang et al. 2024, section 3). The summaries of 64 blocks share a record:
//
//   [rows / pack][64 blocks][pack] codes, then f32 scales [64] if int8
//
// so that scoring reads records front to back, once, a lane per block. head_dim is padded to a multiple of 16 with
// codes of 0. int8 codes are stored with an offset of 128, as the unsigned operand of a dot product: value = (code -
// 128) * scale of the block. A block with a NaN or an infinity in its keys has scale NaN: its score is NaN, and
// selections take it, so that the attention over it shows what is wrong. Blocks beyond the last one have undefined
// codes.
//
// Internal linkage throughout: sources with ISA flags include this (attention/kv/kv_tile_layout.h says why).
#pragma once

#include <cstdint>

namespace tributary {

enum class SummaryKind : uint8_t { kMean = 1, kMinMax = 2 };
enum class SummaryStorage : uint8_t { kBf16 = 1, kInt8 = 2 };

inline constexpr uint32_t kSummaryRecordBlocks = 64;
inline constexpr uint32_t kSummaryDimMultiple = 16;
inline constexpr uint32_t kSummaryCodeZero = 128;  // of int8

// Byte offsets and sizes of one record. Make it with MakeBlockSummaryLayout.
struct BlockSummaryLayout {
  SummaryKind kind = SummaryKind::kMean;
  SummaryStorage storage = SummaryStorage::kInt8;
  uint32_t head_dim = 0;
  uint32_t padded_dim = 0;
  uint32_t rows = 0;          // padded_dim, twice that for kMinMax: maxima first
  uint32_t pack = 0;          // rows that share a 32-bit lane
  uint32_t scales_begin = 0;  // f32 [64], int8 only
  uint32_t record_bytes = 0;  // a multiple of 64
};

// REQUIRES: head_dim > 0.
static constexpr BlockSummaryLayout MakeBlockSummaryLayout(SummaryKind kind, SummaryStorage storage,
                                                           uint32_t head_dim) {
  BlockSummaryLayout layout;
  layout.kind = kind;
  layout.storage = storage;
  layout.head_dim = head_dim;
  layout.padded_dim = (head_dim + kSummaryDimMultiple - 1) / kSummaryDimMultiple * kSummaryDimMultiple;
  layout.rows = kind == SummaryKind::kMinMax ? 2 * layout.padded_dim : layout.padded_dim;
  layout.pack = storage == SummaryStorage::kInt8 ? 4 : 2;
  layout.scales_begin = layout.rows / layout.pack * kSummaryRecordBlocks * 4;
  layout.record_bytes = layout.scales_begin + (storage == SummaryStorage::kInt8 ? kSummaryRecordBlocks * 4 : 0);
  return layout;
}

// Index of a code within a record, in elements. REQUIRES: row < layout.rows, block < 64.
static constexpr uint32_t SummaryCodeIndex(const BlockSummaryLayout& layout, uint32_t row, uint32_t block) {
  return (row / layout.pack * kSummaryRecordBlocks + block) * layout.pack + row % layout.pack;
}

}  // namespace tributary
