#include "attention/kv_pack.h"

#include <cstring>

#include "base/check.h"
#include "base/dtype.h"

namespace tributary {
namespace {

// Index of an element among the K codes or the V codes of its tile.
using ElementIndex = uint32_t (*)(const KvTileLayout&, uint32_t, uint32_t);

// One token's row into the codes of its tile. Zeros go where head_dim is padded.
template <typename Code>
void PackRow(const KvTileLayout& layout, ElementIndex index, const std::byte* row, uint32_t token,
             std::byte* codes) {
  for (uint32_t dim = 0; dim < layout.padded_dim; ++dim) {
    Code code = 0;
    if (dim < layout.head_dim) std::memcpy(&code, row + dim * sizeof(Code), sizeof(Code));
    std::memcpy(codes + index(layout, token, dim) * sizeof(Code), &code, sizeof(Code));
  }
}

void PackFloatRow(const KvTileLayout& layout, KvStorage storage, ElementIndex index,
                  const std::byte* row, uint32_t token, std::byte* codes) {
  TRIBUTARY_CHECK(IsFloatKvStorage(storage));
  if (storage == KvStorage::kF32) {
    PackRow<uint32_t>(layout, index, row, token, codes);
  } else {
    PackRow<uint16_t>(layout, index, row, token, codes);
  }
}

void UnpackFloatRow(const KvTileLayout& layout, KvStorage storage, ElementIndex index,
                    const std::byte* codes, uint32_t token, float* row) {
  TRIBUTARY_CHECK(IsFloatKvStorage(storage));
  const DType dtype = static_cast<DType>(storage);
  for (uint32_t dim = 0; dim < layout.head_dim; ++dim) {
    const std::byte* code = codes + index(layout, token, dim) * DTypeBytes(dtype);
    ConvertToF32(dtype, code, 1, row + dim);
  }
}

uint32_t KIndex(const KvTileLayout& layout, uint32_t token, uint32_t dim) {
  return KvKElementIndex(layout, token, dim);
}
uint32_t VIndex(const KvTileLayout& layout, uint32_t token, uint32_t dim) {
  return KvVElementIndex(layout, token, dim);
}

}  // namespace

void PackKvPlain(const KvPackArgs& args) {
  const KvTileLayout& layout = args.layout;
  for (uint32_t i = 0; i < args.num_tokens; ++i) {
    const uint64_t position = args.token_begin + i;
    const uint32_t token = position % kKvTileTokens;
    std::byte* tile =
        static_cast<std::byte*>(args.tiles) + position / kKvTileTokens * layout.record_bytes;
    PackFloatRow(layout, layout.k_storage, &KIndex,
                 static_cast<const std::byte*>(args.k) + i * args.k_stride_bytes, token, tile);
    PackFloatRow(layout, layout.v_storage, &VIndex,
                 static_cast<const std::byte*>(args.v) + i * args.v_stride_bytes, token,
                 tile + layout.v_begin);
  }
}

void UnpackKvToF32(const KvTileLayout& layout, const void* tiles, uint64_t token_begin,
                   uint32_t num_tokens, float* k, float* v) {
  for (uint32_t i = 0; i < num_tokens; ++i) {
    const uint64_t position = token_begin + i;
    const uint32_t token = position % kKvTileTokens;
    const std::byte* tile =
        static_cast<const std::byte*>(tiles) + position / kKvTileTokens * layout.record_bytes;
    UnpackFloatRow(layout, layout.k_storage, &KIndex, tile, token, k + i * layout.head_dim);
    UnpackFloatRow(layout, layout.v_storage, &VIndex, tile + layout.v_begin, token,
                   v + i * layout.head_dim);
  }
}

}  // namespace tributary
