#include "cpu_attention_service/executor/read_units.h"

namespace tributary {
namespace {

// Tokens of the subgroups of 16 that a kernel reads for the pieces.
uint64_t TokensRead(std::span<const ReadPiece> pieces) {
  constexpr uint64_t kSubgroup = (uint64_t{1} << kKvSubgroupTokens) - 1;
  uint64_t tokens = 0;
  for (const ReadPiece& piece : pieces) {
    for (uint32_t begin = 0; begin < kKvTileTokens; begin += kKvSubgroupTokens) {
      if ((piece.token_mask >> begin & kSubgroup) != 0) tokens += kKvSubgroupTokens;
    }
  }
  return tokens;
}

}  // namespace

ReadUnits UnitsOf(const ShardQuery& query, uint32_t kv_head, ReadSource source) {
  const HeadRead* head = ReadOf(query, kv_head);
  if (source == ReadSource::kTokens) {
    const TokenRange tokens = head == nullptr ? query.local : head->tokens;
    return {tokens.begin, tokens.end, query.shard->tokens_per_run()};
  }
  if (head == nullptr) return {};
  switch (source) {
    case ReadSource::kRows:
      if (head->rows.empty()) return {};
      return {head->rows.begin, head->rows.end, query.cache->rows_per_run()};
    case ReadSource::kPieces:
      return {0, head->pieces.pieces.size(), kPiecesPerItem};
    case ReadSource::kWeighted:
      return {0, head->weighted.pieces.size(), kPiecesPerItem};
    default:
      return {};
  }
}

uint64_t BytesOf(const ShardQuery& query, uint32_t kv_head, ReadSource source, TokenRange units) {
  const KvTileLayout& layout = query.shard->tile_layout();
  if (source == ReadSource::kTokens || source == ReadSource::kRows) {
    return units.size() * layout.record_bytes / kKvTileTokens;
  }
  const HeadRead& head = query.heads[kv_head];
  if (source == ReadSource::kPieces) {
    const uint64_t tokens = TokensRead(head.pieces.pieces.subspan(units.begin, units.size()));
    return tokens * layout.record_bytes / kKvTileTokens;
  }
  const uint64_t tokens = TokensRead(head.weighted.pieces.subspan(units.begin, units.size()));
  return tokens * (layout.record_bytes - layout.v_begin) / kKvTileTokens;
}

}  // namespace tributary
