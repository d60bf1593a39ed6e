// The packing of the canonical rows of the wire, [token][kv_head][head_dim], into tiles (kv_tile_layout.h), and the way
// back.
//
// This file has the plain functions, which are right everywhere; faster ones with the same contract come with the CPU
// kernels (CpuKernel::pack), and whoever stores KV is handed one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/kv/kv_tile_layout.h"

namespace tributary {

// One KV head's rows of some tokens. Source rows need no alignment. Tokens of the tiles outside
// [token_begin, token_begin + num_tokens) keep their codes.
struct KvPackArgs {
  KvTileLayout layout;
  // Element type of the source rows: for a float storage that storage, for a quantised one f32, bf16 or f16.
  KvStorage k_source = KvStorage::kF32;
  KvStorage v_source = KvStorage::kF32;
  const void* k = nullptr;  // row of token i at k + i * k_stride_bytes, head_dim elements
  const void* v = nullptr;
  size_t k_stride_bytes = 0;
  size_t v_stride_bytes = 0;
  uint32_t num_tokens = 0;
  void* tiles = nullptr;     // consecutive records; aligned to kKvTileAlignBytes
  uint64_t token_begin = 0;  // of the first row, counted from token 0 of the record at `tiles`
  // If not null, [tile that has one of the tokens]: the CRC-32C of the record (base/crc32c.h) of each tile of which all
  // 64 tokens are given, taken while its bytes are in the cache. Those of the other tiles are not touched.
  uint32_t* tile_crcs = nullptr;
};

// REQUIRES: what the comments above say; memory that does not overlap. Whole tiles may be written past the caches.
using KvPackFn = void (*)(const KvPackArgs& args);
void PackKvPlain(const KvPackArgs& args);

// The values of tokens [token_begin, token_begin + num_tokens) as f32 rows [num_tokens][head_dim]: what attention sees.
// For tests, tools and reading KV back; not fast.
void UnpackKvToF32(const KvTileLayout& layout, const void* tiles, uint64_t token_begin, uint32_t num_tokens, float* k,
                   float* v);

}  // namespace tributary
