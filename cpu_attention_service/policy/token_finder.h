// Finds the tokens of a stream that score highest by the coarse codes of their keys (kv_store/key_codes.h), for each
// query head of a group.
//
// All codes are scanned, and nothing is sorted. A sample of the tokens says what a score must about reach to be among
// the best; the scan keeps only tokens that reach it, some three times as many as are wanted, and a selection among
// those ends it. Where the sample misled, which shows in too few tokens, it is done again with less to reach. So the
// result depends on codes and query alone, not on the sample, the parts or the threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/token_range.h"
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

// One scan after the other, each in parts that different threads may take:
//
//   finder.Begin(kernel, scan); for each part, at the same time: finder.ScanPart(part); finder.Finish(tokens);
//
// Of equal scores the earlier token comes first. A row whose q is not finite finds the first max_tokens. What a scan
// refers to outlives it. Allocates only where more is found than ever before, or more than is kept between scans.
class TokenFinder {
 public:
  static uint32_t NumParts(TokenRange local);

  void Begin(const BlockSelectionKernel& kernel, const TokenScan& scan);
  // Each part once; different parts at the same time.
  void ScanPart(uint32_t part);
  // `found`: of each row the tokens, stripe-local and ascending. It may scan again.
  void Finish(std::span<std::vector<uint32_t>> found);

 private:
  struct Candidates {
    std::vector<uint32_t> tokens;  // ascending
    std::vector<float> scores;
  };

  void GuessLeast();
  bool FinishRow(uint32_t row, std::vector<uint32_t>* found);
  float FloorOf(uint32_t row, float highest_ln) const;

  const BlockSelectionFns* fns_ = nullptr;
  TokenScan scan_;
  std::vector<float> q_;      // [row][head_dim], rotated
  std::vector<float> least_;  // [row]: what a candidate reaches
  uint32_t num_parts_ = 0;
  std::vector<Candidates> candidates_;  // [part][row]
};

// All parts on this thread.
void FindTokens(const BlockSelectionKernel& kernel, const TokenScan& scan, std::span<std::vector<uint32_t>> found);

}  // namespace tributary
