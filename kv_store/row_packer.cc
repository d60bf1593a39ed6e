#include "kv_store/row_packer.h"

#include <algorithm>

#include "base/limits.h"

namespace tributary {
namespace {

// A float storage is packed from rows of its own type, a quantised one from any float's.
bool NeedsConversion(KvStorage storage, DType source) {
  return IsFloatKvStorage(storage) && static_cast<DType>(storage) != source;
}

struct ConvertedRows {
  alignas(64) std::byte bytes[size_t{kKvTileTokens} * limits::kMaxHeadDim * sizeof(float)];
};

// The rows of tokens [begin, begin + count) as the storage wants them: the given ones, or converted into `room`.
HeadRows RowsFor(KvStorage storage, const HeadRows& rows, uint32_t head_dim, uint32_t begin, uint32_t count,
                 ConvertedRows* room) {
  const std::byte* data = rows.data + begin * rows.stride_bytes;
  if (!NeedsConversion(storage, rows.dtype)) return {data, rows.stride_bytes, rows.dtype};
  const DType dtype = static_cast<DType>(storage);
  const size_t row_bytes = head_dim * DTypeBytes(dtype);
  float values[limits::kMaxHeadDim];
  for (uint32_t i = 0; i < count; ++i) {
    ConvertToF32(rows.dtype, data + i * rows.stride_bytes, head_dim, values);
    ConvertFromF32(dtype, values, head_dim, room->bytes + i * row_bytes);
  }
  return {room->bytes, row_bytes, dtype};
}

}  // namespace

void PackHeadRows(KvPackFn pack, const KvTileLayout& layout, const HeadRows& k, const HeadRows& v, std::byte* tiles,
                  uint64_t token_begin, uint32_t num_tokens, uint32_t* tile_crcs) {
  const bool converts = NeedsConversion(layout.k_storage, k.dtype) || NeedsConversion(layout.v_storage, v.dtype);
  ConvertedRows k_room, v_room;
  KvPackArgs args;
  args.layout = layout;
  args.tiles = tiles;
  for (uint32_t done = 0; done < num_tokens; done += args.num_tokens) {
    // All at once; or, since converted rows need room, tile by tile.
    const uint64_t position = token_begin + done;
    const uint64_t in_tile = kKvTileTokens - position % kKvTileTokens;
    args.num_tokens = num_tokens - done;
    if (converts) args.num_tokens = static_cast<uint32_t>(std::min<uint64_t>(args.num_tokens, in_tile));
    const HeadRows k_rows = RowsFor(layout.k_storage, k, layout.head_dim, done, args.num_tokens, &k_room);
    const HeadRows v_rows = RowsFor(layout.v_storage, v, layout.head_dim, done, args.num_tokens, &v_room);
    args.k_source = static_cast<KvStorage>(k_rows.dtype);
    args.v_source = static_cast<KvStorage>(v_rows.dtype);
    args.k = k_rows.data;
    args.v = v_rows.data;
    args.k_stride_bytes = k_rows.stride_bytes;
    args.v_stride_bytes = v_rows.stride_bytes;
    args.token_begin = position;
    if (tile_crcs != nullptr) args.tile_crcs = tile_crcs + (position / kKvTileTokens - token_begin / kKvTileTokens);
    pack(args);
  }
}

}  // namespace tributary
