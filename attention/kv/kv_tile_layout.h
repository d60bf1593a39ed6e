// How K and V of one stream lie in host memory: the tile, the unit that the CPU kernels read.
//
// A stream (one layer and KV head of one shard) is a sequence of tiles of 64 consecutive tokens. A tile's record is
//
//   [K codes][V codes][K params][V params][padding to 64 bytes]
//
// and one pass over it, front to back, is one step of attention. Codes lie by subgroups of 16 tokens, so that a block
// of 16, 32 or 64 tokens is one or two contiguous pieces of K and of V:
//
//   K codes: [4 subgroups][padded_dim / pack][16 tokens][pack dims]            scores: a lane per token
//   V codes: [4 subgroups][strips of 64 dims][16 / pack][dims of the strip][pack tokens]   values: a lane per dim
//
// `pack` elements fill one lane (32 bits; 16 for f16, which has no dot product to feed). head_dim is padded to a
// multiple of 16 with zero codes; a strip has 64 dims, the last one what is left. Tokens that are not stored yet have
// undefined codes and params: readers mask them.
//
// Inside a run of 16 lanes fp8 and int4 have an order of their own (KvLaneOffset), so that unpacking needs no shuffle
// across lanes: fp8 lies so that interleaving its low and high bf16 bytes gives lanes of pairs; an int4 byte has
// elements e and e + 4 of its lane, low nibble first.
//
// Params of a quantised stream are per token, in the order of tokens; see KvParamBytesPerToken. What codes and params
// mean is in kv_quantise.h.
//
// Everything here is plain arithmetic. Functions have internal linkage: sources with ISA flags include this header, and
// a shared inline function might be the copy, compiled for that ISA, that the linker keeps for the whole binary.
#pragma once

#include <cstdint>

namespace tributary {

// Storage type of a stream's K or V: base/dtype.h's DType by value.
enum class KvStorage : uint8_t { kF32 = 1, kBf16 = 2, kF16 = 3, kInt8 = 4, kInt4 = 5, kFp8E4m3 = 6 };
inline constexpr uint32_t kNumKvStorages = 6;  // valid values are 1 .. kNumKvStorages

inline constexpr uint32_t kKvTileTokens = 64;
inline constexpr uint32_t kKvSubgroupTokens = 16;
inline constexpr uint32_t kKvTileSubgroups = kKvTileTokens / kKvSubgroupTokens;
inline constexpr uint32_t kKvDimMultiple = 16;
inline constexpr uint32_t kKvStripDims = 64;
inline constexpr uint32_t kKvTileAlignBytes = 64;

static constexpr bool IsValidKvStorage(KvStorage storage) {
  return static_cast<uint32_t>(storage) >= 1 && static_cast<uint32_t>(storage) <= kNumKvStorages;
}
static constexpr bool IsFloatKvStorage(KvStorage storage) {
  return static_cast<uint32_t>(storage) >= 1 && static_cast<uint32_t>(storage) <= 3;
}

// Bits of one element's code.
static constexpr uint32_t KvCodeBits(KvStorage storage) {
  switch (storage) {
    case KvStorage::kF32:
      return 32;
    case KvStorage::kBf16:
    case KvStorage::kF16:
      return 16;
    case KvStorage::kInt8:
    case KvStorage::kFp8E4m3:
      return 8;
    case KvStorage::kInt4:
      return 4;
  }
  return 0;
}

// Elements that share a lane.
static constexpr uint32_t KvPack(KvStorage storage) {
  switch (storage) {
    case KvStorage::kF32:
    case KvStorage::kF16:
      return 1;
    case KvStorage::kBf16:
      return 2;
    case KvStorage::kInt8:
    case KvStorage::kFp8E4m3:
      return 4;
    case KvStorage::kInt4:
      return 8;
  }
  return 1;
}

// Params of one token of a K or V stream: int8 and int4 a bf16 scale, the others none.
static constexpr uint32_t KvParamBytesPerToken(KvStorage storage) {
  switch (storage) {
    case KvStorage::kInt8:
    case KvStorage::kInt4:
      return 2;
    case KvStorage::kF32:
    case KvStorage::kBf16:
    case KvStorage::kF16:
    case KvStorage::kFp8E4m3:
      return 0;
  }
  return 0;
}

// Byte offsets and sizes of one record. Make it with MakeKvTileLayout.
struct KvTileLayout {
  KvStorage k_storage = KvStorage::kF32;
  KvStorage v_storage = KvStorage::kF32;
  uint32_t head_dim = 0;
  uint32_t padded_dim = 0;  // dims stored

  uint32_t k_subgroup_bytes = 0;  // K codes of 16 tokens, contiguous, at subgroup * k_subgroup_bytes
  uint32_t v_subgroup_bytes = 0;  // V codes of 16 tokens, contiguous, at v_begin + subgroup * v_subgroup_bytes
  uint32_t v_begin = 0;
  uint32_t k_params_begin = 0;
  uint32_t v_params_begin = 0;
  uint32_t record_bytes = 0;  // a multiple of kKvTileAlignBytes; tile i of a contiguous run is at i * record_bytes

  friend constexpr bool operator==(const KvTileLayout&, const KvTileLayout&) = default;
};

// REQUIRES: valid storages, head_dim > 0.
static constexpr KvTileLayout MakeKvTileLayout(KvStorage k, KvStorage v, uint32_t head_dim) {
  KvTileLayout layout;
  layout.k_storage = k;
  layout.v_storage = v;
  layout.head_dim = head_dim;
  layout.padded_dim = (head_dim + kKvDimMultiple - 1) / kKvDimMultiple * kKvDimMultiple;
  layout.k_subgroup_bytes = layout.padded_dim * kKvSubgroupTokens * KvCodeBits(k) / 8;
  layout.v_subgroup_bytes = layout.padded_dim * kKvSubgroupTokens * KvCodeBits(v) / 8;
  layout.v_begin = kKvTileSubgroups * layout.k_subgroup_bytes;
  layout.k_params_begin = layout.v_begin + kKvTileSubgroups * layout.v_subgroup_bytes;
  layout.v_params_begin = layout.k_params_begin + kKvTileTokens * KvParamBytesPerToken(k);
  const uint32_t end = layout.v_params_begin + kKvTileTokens * KvParamBytesPerToken(v);
  layout.record_bytes = (end + kKvTileAlignBytes - 1) / kKvTileAlignBytes * kKvTileAlignBytes;
  return layout;
}

// Place of element `part` (0 .. pack - 1) of lane `lane` (0 .. 15) inside its run of 16 lanes, in elements.
static constexpr uint32_t KvLaneOffset(KvStorage storage, uint32_t lane, uint32_t part) {
  if (storage == KvStorage::kInt4) return lane * 8 + part % 4 * 2 + part / 4;
  if (storage == KvStorage::kFp8E4m3) return lane / 4 * 16 + part / 2 * 8 + lane % 4 * 2 + part % 2;
  return lane * KvPack(storage) + part;
}

// Index of an element among the K codes of a tile, in elements (for int4 in nibbles, the low one of a byte first).
// REQUIRES: token < kKvTileTokens, dim < padded_dim.
static constexpr uint32_t KvKElementIndex(const KvTileLayout& layout, uint32_t token, uint32_t dim) {
  const uint32_t pack = KvPack(layout.k_storage);
  const uint32_t subgroup = token / kKvSubgroupTokens;
  const uint32_t lane = dim / pack * kKvSubgroupTokens + token % kKvSubgroupTokens;
  return subgroup * kKvSubgroupTokens * layout.padded_dim + lane / 16 * 16 * pack +
         KvLaneOffset(layout.k_storage, lane % 16, dim % pack);
}

// The same among the V codes, which begin at v_begin.
static constexpr uint32_t KvVElementIndex(const KvTileLayout& layout, uint32_t token, uint32_t dim) {
  const uint32_t pack = KvPack(layout.v_storage);
  const uint32_t subgroup = token / kKvSubgroupTokens;
  const uint32_t strip = dim / kKvStripDims;
  const uint32_t rest = layout.padded_dim - strip * kKvStripDims;
  const uint32_t strip_dims = rest < kKvStripDims ? rest : kKvStripDims;
  const uint32_t in_subgroup = token % kKvSubgroupTokens;
  const uint32_t lane = in_subgroup / pack * strip_dims + dim % kKvStripDims;
  return subgroup * kKvSubgroupTokens * layout.padded_dim + strip * kKvStripDims * kKvSubgroupTokens +
         lane / 16 * 16 * pack + KvLaneOffset(layout.v_storage, lane % 16, in_subgroup % pack);
}

// Tiles that hold `tokens` tokens of a stream.
static constexpr uint64_t KvTilesFor(uint64_t tokens) { return (tokens + kKvTileTokens - 1) / kKvTileTokens; }

}  // namespace tributary
