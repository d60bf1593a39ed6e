// Helps policies that choose single tokens of a shard for each query head: finds, by the coarse codes of the keys
// (kv_store/key_codes.h), the tokens that score highest, and makes them into pieces to read.
//
// All codes are scanned, and nothing is sorted: scores of some thousand tokens at a time stay in the cache, those above
// the threshold so far are kept, and a selection among them raises it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/token_range.h"
#include "cpu_attention_service/executor/head_read.h"
#include "cpu_attention_service/kernels/selection/block_selection.h"
#include "kv_store/key_codes.h"

namespace tributary {

// Which tokens of a stream are to be found.
struct TokenScan {
  const KeyCodes* codes = nullptr;
  uint64_t stream = 0;
  TokenRange local;          // ends with a whole record, and all of its records are there
  std::span<const float> q;  // f32 [num_rows][head_dim]
  uint32_t num_rows = 0;     // at most limits::kMaxGroupSize
  float softmax_scale = 0;
  uint32_t max_tokens = 0;  // of a row
  // A token is taken only if its coarse score is within so many nats of the row's highest, or of `floor_ln` if that is
  // higher.
  float reach_nats = 0;
  std::span<const float> floor_ln;  // [num_rows], -inf where nothing is known; empty: likewise
};

// What a row has found: the tokens, ascending, and the highest coarse score, -inf if there are no tokens.
struct FoundTokens {
  std::vector<uint32_t> tokens;  // stripe-local
  float max_ln = 0;
};

// Of equal scores the earlier token comes first. A row whose q is not finite finds the first max_tokens. The result
// depends on codes and query alone. Allocates only where more is found than ever before on this thread. `found` has
// num_rows elements.
void FindTokens(const BlockSelectionKernel& kernel, const TokenScan& scan, std::span<FoundTokens> found);

// The pieces of tokens that several rows have chosen, each row its own. Its memory is kept for the next query.
class ChosenTokens {
 public:
  // `chosen`: of each row its tokens, ascending. `all_rows`: tokens that every row reads, disjoint from those, behind
  // the last of them.
  void Set(std::span<const FoundTokens> chosen, TokenRange all_rows);
  // The rows are those of the query: [n_q][group_size].
  PieceList list() const { return {pieces_, row_masks_}; }

 private:
  void AddPiece(uint64_t tile, size_t num_rows);

  std::vector<ReadPiece> pieces_;
  std::vector<uint64_t> row_masks_;  // [piece][row]
  std::vector<size_t> next_;         // of each row
};

}  // namespace tributary
