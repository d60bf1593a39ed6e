// Makes single tokens that a policy has chosen for each query head (token_finder.h) into pieces to read.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/token_range.h"
#include "cpu_attention_service/executor/head_read.h"

namespace tributary {

// The pieces of tokens that several rows have chosen, each row its own. Its memory is kept for the next query.
class ChosenTokens {
 public:
  // `chosen`: of each row its tokens, stripe-local and ascending. `all_rows`: tokens that every row reads, disjoint
  // from those, behind the last of them.
  void Set(std::span<const std::vector<uint32_t>> chosen, TokenRange all_rows);
  // The rows are those of the query: [n_q][group_size].
  PieceList list() const { return {pieces_, row_masks_}; }

 private:
  void AddPiece(uint64_t tile, size_t num_rows);

  std::vector<ReadPiece> pieces_;
  std::vector<uint64_t> row_masks_;  // [piece][row]
  std::vector<size_t> next_;         // of each row
};

}  // namespace tributary
