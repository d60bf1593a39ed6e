// How what a head reads is cut into items of work: at fixed places, so that the order of summation is fixed, too.
#pragma once

#include <cstdint>

#include "cpu_attention_service/executor/shard_query.h"

namespace tributary {

// The sources of a head, in the order of the fold (head_read.h). kNone: behind the last one.
enum class ReadSource : uint8_t { kTokens, kRows, kPieces, kWeighted, kNone };

// Pieces of a list that one item takes.
inline constexpr uint32_t kPiecesPerItem = 64;

// A source's tokens, rows or pieces [begin, end). An item takes those up to the next multiple of `per_item`.
struct ReadUnits {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t per_item = 1;

  uint64_t ItemEnd(uint64_t begin_of_item) const {
    const uint64_t item_end = (begin_of_item / per_item + 1) * per_item;
    return item_end < end ? item_end : end;
  }
};

// What the KV head reads; null: all of `local`.
inline const HeadRead* ReadOf(const ShardQuery& query, uint32_t kv_head) {
  return query.heads.empty() ? nullptr : &query.heads[kv_head];
}

ReadUnits UnitsOf(const ShardQuery& query, uint32_t kv_head, ReadSource source);

// Bytes of K and V that the units take in memory.
uint64_t BytesOf(const ShardQuery& query, uint32_t kv_head, ReadSource source, TokenRange units);

}  // namespace tributary
