#include "cpu_attention_service/policy/token_choice.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/kv/hadamard.h"
#include "attention/kv/kv_tile_layout.h"
#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/limits.h"

namespace tributary {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
// Scores of one step of the scan, all rows together: they stay in the L2 cache.
constexpr uint32_t kStepScores = 32768;
// What a thread keeps of a row for the next scan; more, which a large max_tokens takes, is given back.
constexpr size_t kKeptTokens = 32768;

// The best tokens of one row so far.
struct Candidates {
  std::vector<uint32_t> tokens;  // ascending
  std::vector<float> scores;
  std::vector<uint32_t> ids;  // scratch of selections
  float threshold = kMinusInfinity;
  float max_ln = kMinusInfinity;

  void Clear() {
    tokens.clear();
    scores.clear();
    threshold = max_ln = kMinusInfinity;
  }
  // Adds those of `of_step`, which begin with token `first`, that may be among the best.
  void Add(const BlockSelectionFns& fns, std::span<const float> of_step, uint64_t first, uint32_t max_tokens) {
    ids.resize(of_step.size() + kSelectSlack);
    // A later token that equals the threshold loses against the earlier ones.
    const float above = std::nextafter(threshold, std::numeric_limits<float>::infinity());
    const auto num_scores = static_cast<uint32_t>(of_step.size());
    const uint32_t count = threshold == kMinusInfinity
                               ? fns.top_k(of_step.data(), num_scores, std::min(max_tokens, num_scores), ids.data())
                               : fns.threshold(of_step.data(), num_scores, above, ids.data());
    for (uint32_t i = 0; i < count; ++i) {
      const float score = of_step[ids[i]];
      tokens.push_back(static_cast<uint32_t>(first + ids[i]));
      scores.push_back(score);
      // Written so that a NaN stays.
      if (!(score <= max_ln) && max_ln == max_ln) max_ln = score;
    }
    if (tokens.size() >= (threshold == kMinusInfinity ? 1 : 2) * size_t{max_tokens}) KeepBest(fns, max_tokens);
  }
  // The best max_tokens, if there are as many.
  void KeepBest(const BlockSelectionFns& fns, uint32_t max_tokens) {
    if (tokens.size() < max_tokens) return;
    ids.resize(std::max<size_t>(ids.size(), max_tokens + kSelectSlack));
    const uint32_t count = fns.top_k(scores.data(), static_cast<uint32_t>(scores.size()), max_tokens, ids.data());
    threshold = std::numeric_limits<float>::infinity();
    for (uint32_t i = 0; i < count; ++i) {
      tokens[i] = tokens[ids[i]];
      scores[i] = scores[ids[i]];
      threshold = std::min(threshold, scores[i]);
    }
    tokens.resize(count);
    scores.resize(count);
  }
  // Is called after a scan.
  void GiveBackExcess() {
    if (tokens.capacity() <= kKeptTokens && ids.capacity() <= kKeptTokens + kSelectSlack) return;
    std::vector<uint32_t>().swap(tokens);
    std::vector<float>().swap(scores);
    std::vector<uint32_t>().swap(ids);
  }
};

// What a thread's scans use, one after the other; a shard has none of it.
struct ScanScratch {
  AlignedBuffer<float> scores{kStepScores};
  std::vector<float> q;  // [row][head_dim], rotated
  std::vector<Candidates> rows{limits::kMaxGroupSize};
};

ScanScratch& ScratchOfThread() {
  thread_local ScanScratch scratch;
  return scratch;
}

void PrepareRows(const TokenScan& scan, ScanScratch& scratch) {
  const uint32_t head_dim = scan.codes->layout().head_dim;
  scratch.q.assign(scan.q.begin(), scan.q.end());
  for (uint32_t row = 0; row < scan.num_rows; ++row) {
    HadamardRotate(scratch.q.data() + size_t{row} * head_dim, head_dim);
    scratch.rows[row].Clear();
  }
}

// Scores whole records, and looks at the tokens of `local` among theirs.
void ScanAll(const BlockSelectionFns& fns, const TokenScan& scan, ScanScratch& scratch) {
  ScoreKeysArgs args;
  args.layout = scan.codes->layout();
  args.q = scratch.q.data();
  args.group_size = scan.num_rows;
  args.softmax_scale = scan.softmax_scale;
  args.scores = scratch.scores.data();
  args.score_stride = kStepScores / scan.num_rows / kKeyCodeRecordTokens * kKeyCodeRecordTokens;
  uint64_t begin = scan.local.begin / kKeyCodeRecordTokens * kKeyCodeRecordTokens;
  while (begin < scan.local.end) {
    const KeyCodes::Run run = scan.codes->RunAt(scan.stream, begin, scan.local.end);
    args.records = run.records;
    args.num_tokens = static_cast<uint32_t>(std::min<uint64_t>(run.num_tokens, args.score_stride));
    fns.score_keys(args);
    const uint64_t skipped = std::max(begin, scan.local.begin) - begin;
    for (uint32_t row = 0; row < scan.num_rows; ++row) {
      const float* const scores = args.scores + size_t{row} * args.score_stride;
      scratch.rows[row].Add(fns, {scores + skipped, args.num_tokens - skipped}, begin + skipped, scan.max_tokens);
    }
    begin += args.num_tokens;
  }
}

}  // namespace

void FindTokens(const BlockSelectionKernel& kernel, const TokenScan& scan, std::span<FoundTokens> found) {
  TRIBUTARY_CHECK_LE(scan.num_rows, limits::kMaxGroupSize);
  TRIBUTARY_CHECK_EQ(found.size(), scan.num_rows);
  TRIBUTARY_CHECK_EQ(scan.q.size(), size_t{scan.num_rows} * scan.codes->layout().head_dim);
  for (FoundTokens& of_row : found) of_row = {std::move(of_row.tokens), kMinusInfinity};
  for (FoundTokens& of_row : found) of_row.tokens.clear();
  if (scan.local.empty() || scan.max_tokens == 0) return;
  ScanScratch& scratch = ScratchOfThread();
  PrepareRows(scan, scratch);
  ScanAll(kernel.fns, scan, scratch);
  for (uint32_t row = 0; row < scan.num_rows; ++row) {
    Candidates& best = scratch.rows[row];
    best.KeepBest(kernel.fns, scan.max_tokens);
    found[row].max_ln = best.max_ln;
    float floor_ln = best.max_ln;
    if (!scan.floor_ln.empty()) floor_ln = std::max(floor_ln, scan.floor_ln[row]);
    for (size_t i = 0; i < best.tokens.size(); ++i) {
      // Written so that a NaN is taken.
      if (!(best.scores[i] < floor_ln - scan.reach_nats)) found[row].tokens.push_back(best.tokens[i]);
    }
    best.GiveBackExcess();
  }
}

// ---- pieces ----

void ChosenTokens::AddPiece(uint64_t tile, size_t num_rows) {
  pieces_.push_back({tile, 0});
  row_masks_.resize(row_masks_.size() + num_rows, 0);
}

void ChosenTokens::Set(std::span<const FoundTokens> chosen, TokenRange all_rows) {
  constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();
  pieces_.clear();
  row_masks_.clear();
  next_.assign(chosen.size(), 0);
  while (true) {
    // The lowest tile that any row has still to come.
    uint64_t tile = kNone;
    for (size_t row = 0; row < chosen.size(); ++row) {
      if (next_[row] < chosen[row].tokens.size()) {
        tile = std::min<uint64_t>(tile, chosen[row].tokens[next_[row]] / kKvTileTokens);
      }
    }
    if (tile == kNone) break;
    AddPiece(tile, chosen.size());
    uint64_t* const masks = row_masks_.data() + row_masks_.size() - chosen.size();
    for (size_t row = 0; row < chosen.size(); ++row) {
      const std::vector<uint32_t>& tokens = chosen[row].tokens;
      size_t& next = next_[row];
      for (; next < tokens.size() && tokens[next] / kKvTileTokens == tile; ++next) {
        masks[row] |= uint64_t{1} << tokens[next] % kKvTileTokens;
      }
      pieces_.back().token_mask |= masks[row];
    }
  }
  for (uint64_t token = all_rows.begin; token < all_rows.end; ++token) {
    const uint64_t tile = token / kKvTileTokens, bit = uint64_t{1} << token % kKvTileTokens;
    if (pieces_.empty() || pieces_.back().tile != tile) AddPiece(tile, chosen.size());
    pieces_.back().token_mask |= bit;
    for (size_t row = 0; row < chosen.size(); ++row) row_masks_[row_masks_.size() - chosen.size() + row] |= bit;
  }
}

}  // namespace tributary
