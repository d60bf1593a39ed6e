// Rows of one KV head on their way into tiles: converts between float types where the exchange dtype is not the stored
// one, and leaves the rest to the pack function.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/kv/kv_pack.h"
#include "base/dtype.h"

namespace tributary {

// K or V rows of one KV head: the row of token i at data + i * stride_bytes.
struct HeadRows {
  const std::byte* data = nullptr;
  size_t stride_bytes = 0;
  DType dtype = DType::kUnset;  // exchange dtype

  // The same without the first `count` rows.
  HeadRows After(uint64_t count) const { return {data + count * stride_bytes, stride_bytes, dtype}; }
};

// Writes tokens [token_begin, token_begin + num_tokens), counted from token 0 of the record at `tiles`. `tile_crcs` and
// what is required of the layout and the memory: as of KvPackFn.
void PackHeadRows(KvPackFn pack, const KvTileLayout& layout, const HeadRows& k, const HeadRows& v, std::byte* tiles,
                  uint64_t token_begin, uint32_t num_tokens, uint32_t* tile_crcs = nullptr);

}  // namespace tributary
