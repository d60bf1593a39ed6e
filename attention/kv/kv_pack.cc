#include "attention/kv/kv_pack.h"

#include <cstring>

#include "attention/kv/kv_quantise.h"
#include "base/crc32c.h"
#include "base/dtype.h"
#include "base/limits.h"

namespace tributary {
namespace {

// Index of an element among the K codes or the V codes of its tile.
using ElementIndex = uint32_t (*)(const KvTileLayout&, uint32_t, uint32_t);

// One token's row into the codes of its tile. Zeros go where head_dim is padded.
template <typename Code>
void PackRow(const KvTileLayout& layout, ElementIndex index, const std::byte* row, uint32_t token, std::byte* codes) {
  for (uint32_t dim = 0; dim < layout.padded_dim; ++dim) {
    Code code = 0;
    if (dim < layout.head_dim) std::memcpy(&code, row + dim * sizeof(Code), sizeof(Code));
    std::memcpy(codes + index(layout, token, dim) * sizeof(Code), &code, sizeof(Code));
  }
}

// A code of 8 or 4 bits at element `index`.
void PutCode(KvStorage storage, uint32_t index, uint8_t code, std::byte* codes) {
  if (storage != KvStorage::kInt4) {
    codes[index] = std::byte{code};
    return;
  }
  const uint32_t shift = index % 2 * 4;
  const std::byte other = codes[index / 2] & std::byte{static_cast<uint8_t>(0xf0u >> shift)};
  codes[index / 2] = other | std::byte{static_cast<uint8_t>(code << shift)};
}
uint8_t GetCode(KvStorage storage, uint32_t index, const std::byte* codes) {
  if (storage != KvStorage::kInt4) return static_cast<uint8_t>(codes[index]);
  return (static_cast<uint8_t>(codes[index / 2]) >> (index % 2 * 4)) & 0xfu;
}

// K or V of a tile.
struct Part {
  KvStorage storage;
  KvStorage source;  // element type of the rows
  ElementIndex index;
  uint32_t codes_begin;
  uint32_t params_begin;
  uint8_t int8_offset;  // added to int8 codes
};

void PackQuantisedRow(const KvTileLayout& layout, const Part& part, const std::byte* row, uint32_t token,
                      std::byte* tile) {
  float values[limits::kMaxHeadDim];
  uint8_t codes[limits::kMaxHeadDim];
  bf16_t scale;
  ConvertToF32(static_cast<DType>(part.source), row, layout.head_dim, values);
  QuantiseKvRow(part.storage, values, layout.head_dim, codes, &scale);
  const uint8_t offset = part.storage == KvStorage::kInt8 ? part.int8_offset : 0;
  for (uint32_t dim = 0; dim < layout.padded_dim; ++dim) {
    const uint8_t code = dim < layout.head_dim ? codes[dim] + offset : 0;
    PutCode(part.storage, part.index(layout, token, dim), code, tile + part.codes_begin);
  }
  const uint32_t param_bytes = KvParamBytesPerToken(part.storage);
  std::memcpy(tile + part.params_begin + token * param_bytes, &scale, param_bytes);
}

void UnpackQuantisedRow(const KvTileLayout& layout, const Part& part, const std::byte* tile, uint32_t token,
                        float* row) {
  uint8_t codes[limits::kMaxHeadDim];
  const uint8_t offset = part.storage == KvStorage::kInt8 ? part.int8_offset : 0;
  for (uint32_t dim = 0; dim < layout.head_dim; ++dim) {
    codes[dim] = GetCode(part.storage, part.index(layout, token, dim), tile + part.codes_begin) - offset;
  }
  bf16_t scale;
  const uint32_t param_bytes = KvParamBytesPerToken(part.storage);
  std::memcpy(&scale, tile + part.params_begin + token * param_bytes, param_bytes);
  DequantiseKvRow(part.storage, codes, scale, layout.head_dim, row);
}

void PackPartRow(const KvTileLayout& layout, const Part& part, const std::byte* row, uint32_t token, std::byte* tile) {
  if (!IsFloatKvStorage(part.storage)) return PackQuantisedRow(layout, part, row, token, tile);
  if (part.storage == KvStorage::kF32) {
    PackRow<uint32_t>(layout, part.index, row, token, tile + part.codes_begin);
  } else {
    PackRow<uint16_t>(layout, part.index, row, token, tile + part.codes_begin);
  }
}

void UnpackPartRow(const KvTileLayout& layout, const Part& part, const std::byte* tile, uint32_t token, float* row) {
  if (!IsFloatKvStorage(part.storage)) return UnpackQuantisedRow(layout, part, tile, token, row);
  const DType dtype = static_cast<DType>(part.storage);
  for (uint32_t dim = 0; dim < layout.head_dim; ++dim) {
    const uint32_t index = part.index(layout, token, dim);
    ConvertToF32(dtype, tile + part.codes_begin + index * DTypeBytes(dtype), 1, row + dim);
  }
}

uint32_t KIndex(const KvTileLayout& layout, uint32_t token, uint32_t dim) {
  return KvKElementIndex(layout, token, dim);
}
uint32_t VIndex(const KvTileLayout& layout, uint32_t token, uint32_t dim) {
  return KvVElementIndex(layout, token, dim);
}

Part KPart(const KvTileLayout& layout, KvStorage source) {
  return {layout.k_storage, source, &KIndex, 0, layout.k_params_begin, 128};
}
Part VPart(const KvTileLayout& layout, KvStorage source) {
  return {layout.v_storage, source, &VIndex, layout.v_begin, layout.v_params_begin, 0};
}

}  // namespace

void PackKvPlain(const KvPackArgs& args) {
  const KvTileLayout& layout = args.layout;
  const Part k_part = KPart(layout, args.k_source), v_part = VPart(layout, args.v_source);
  for (uint32_t i = 0; i < args.num_tokens; ++i) {
    const uint64_t position = args.token_begin + i;
    const uint32_t token = position % kKvTileTokens;
    std::byte* tile = static_cast<std::byte*>(args.tiles) + position / kKvTileTokens * layout.record_bytes;
    const std::byte* k_row = static_cast<const std::byte*>(args.k) + i * args.k_stride_bytes;
    const std::byte* v_row = static_cast<const std::byte*>(args.v) + i * args.v_stride_bytes;
    PackPartRow(layout, k_part, k_row, token, tile);
    PackPartRow(layout, v_part, v_row, token, tile);
    const bool fills_tile = token + 1 == kKvTileTokens && i + 1 >= kKvTileTokens;
    if (args.tile_crcs == nullptr || !fills_tile) continue;
    args.tile_crcs[position / kKvTileTokens - args.token_begin / kKvTileTokens] = Crc32c({tile, layout.record_bytes});
  }
}

void UnpackKvToF32(const KvTileLayout& layout, const void* tiles, uint64_t token_begin, uint32_t num_tokens, float* k,
                   float* v) {
  const Part k_part = KPart(layout, KvStorage::kF32), v_part = VPart(layout, KvStorage::kF32);
  for (uint32_t i = 0; i < num_tokens; ++i) {
    const uint64_t position = token_begin + i;
    const uint32_t token = position % kKvTileTokens;
    const std::byte* tile = static_cast<const std::byte*>(tiles) + position / kKvTileTokens * layout.record_bytes;
    UnpackPartRow(layout, k_part, tile, token, k + size_t{i} * layout.head_dim);
    UnpackPartRow(layout, v_part, tile, token, v + size_t{i} * layout.head_dim);
  }
}

}  // namespace tributary
