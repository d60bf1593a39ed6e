#include "cpu_attention_service/executor/head_read.h"

#include <bit>

namespace tributary {

uint64_t CountTokens(std::span<const ReadPiece> pieces) {
  uint64_t count = 0;
  for (const ReadPiece& piece : pieces) count += static_cast<uint64_t>(std::popcount(piece.token_mask));
  return count;
}

}  // namespace tributary
