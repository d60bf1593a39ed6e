// Copies of single tokens between tiles of one layout (attention/kv/kv_tile_layout.h): the stored bits, codes and
// params, so that a copy has exactly the values of its original, whatever the storage.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/kv/kv_tile_layout.h"

namespace tributary {

// Overwrites token `to_token` of the record at `to` with token `from_token` of the record at `from`; all other tokens
// keep their bits. Records may be the same. REQUIRES: a layout of MakeKvTileLayout, tokens < kKvTileTokens.
void CopyTileToken(const KvTileLayout& layout, const std::byte* from, uint32_t from_token, std::byte* to,
                   uint32_t to_token);

}  // namespace tributary
