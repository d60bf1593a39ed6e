#include "cpu_attention_service/policy/fluxion/head_choice.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"

namespace tributary {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// exp(-20) of the largest: what lies below rounds to nothing in the selection's multiples of 2^-24.
constexpr float kNegligible = -20;

}  // namespace

HeadChoice::HeadChoice(const BlockSelectionKernel* kernel, uint32_t group_size, uint32_t max_blocks)
    : kernel_(kernel),
      group_size_(group_size),
      stride_((max_blocks + 15) / 16 * 16),
      scores_(size_t{group_size} * stride_),
      weights_(stride_),
      fixed_(stride_),
      ids_(size_t{group_size} * (stride_ + kSelectSlack)),
      num_chosen_(group_size),
      absolute_(group_size),
      rows_(group_size) {
  for (std::vector<uint32_t>& row : absolute_) row.reserve(max_blocks);
}

void HeadChoice::Begin(const BlockQuery& query) {
  local_ = query.local;
  block_tokens_ = query.summaries->options().block_tokens;
  blocks_ = BlocksOf(local_, block_tokens_);
  TRIBUTARY_CHECK_LE(blocks_.size(), stride_);
  std::fill(num_chosen_.begin(), num_chosen_.end(), 0u);
  num_ragged_ = 0;
  if (blocks_.size() == 0) return;
  const bool ragged_begin = local_.begin % block_tokens_ != 0, ragged_end = local_.end % block_tokens_ != 0;
  num_ragged_ = blocks_.size() == 1 ? uint32_t{ragged_begin || ragged_end} : uint32_t{ragged_begin} + ragged_end;
}

void HeadChoice::ChooseNothingWhole(const BlockQuery& query) {
  Begin(query);
  for (uint32_t row = 0; row < group_size_ && num_ragged_ > 0; ++row) {
    uint32_t* ids = Ids(row);
    if (num_ragged_ == 2 || local_.begin % block_tokens_ != 0) *ids++ = 0;
    if (num_ragged_ == 2 || local_.begin % block_tokens_ == 0) *ids++ = num_blocks() - 1;
    num_chosen_[row] = num_ragged_;
  }
}

void HeadChoice::Score(const BlockQuery& query) {
  Begin(query);
  if (blocks_.size() == 0) return;
  ScoreBlocks(*kernel_, *query.summaries, query.stream, local_, query.q.data(), group_size_, query.softmax_scale,
              scores_, stride_);
  if (query.spread < 1) Narrow(query);
}

// With centre and extent of the box, u(q) = q.centre + |q|.extent and u(-q) = -q.centre + |q|.extent.
void HeadChoice::Narrow(const BlockQuery& query) {
  low_scores_.resize(scores_.size());
  minus_q_.resize(query.q.size());
  std::transform(query.q.begin(), query.q.end(), minus_q_.begin(), std::negate<>());
  ScoreBlocks(*kernel_, *query.summaries, query.stream, local_, minus_q_.data(), group_size_, query.softmax_scale,
              low_scores_, stride_);
  const float of_high = (1 + query.spread) / 2, of_low = (1 - query.spread) / 2;
  for (uint32_t row = 0; row < group_size_; ++row) {
    for (size_t i = size_t{row} * stride_; i < size_t{row} * stride_ + num_blocks(); ++i) {
      // A block that is not whole stays +inf.
      if (scores_[i] != kInfinity) scores_[i] = of_high * scores_[i] - of_low * low_scores_[i];
    }
  }
}

BlockBounds HeadChoice::Bounds(uint32_t row) {
  BlockBounds bounds{.num_blocks = num_whole_blocks()};
  if (bounds.num_blocks == 0) {
    std::fill_n(weights_.begin(), num_blocks(), kInfinity);
    return bounds;
  }
  float largest = -kInfinity;
  for (const float score : scores(row)) {
    if (score < kInfinity) largest = std::max(largest, score);
  }
  double sum = 0;
  for (uint32_t block = 0; block < num_blocks(); ++block) {
    const float below = scores(row)[block] - largest;
    float weight = 0;
    if (!(below < kNegligible)) weight = std::exp(below);  // +inf stays, and NaN
    weights_[block] = weight;
    if (weight != kInfinity) sum += double{weight};
  }
  bounds.lse_ln = largest + static_cast<float>(std::log(sum));
  return bounds;
}

void HeadChoice::ChooseBest(uint32_t row, uint32_t k) {
  // Blocks that are not whole score +inf, and so come first.
  num_chosen_[row] = kernel_->fns.top_k(scores(row).data(), num_blocks(), k + num_ragged_, Ids(row));
}

void HeadChoice::ChooseByRule(uint32_t row, const BlockRule& rule) {
  if (num_blocks() == 0) return;
  uint32_t* const ids = Ids(row);
  const std::span<const float> scores_of_row = scores(row);
  uint32_t count = 0;
  // Written so that a share that is NaN chooses by the other two.
  if (rule.captured_share <= 0) {
    count = kernel_->fns.top_k(scores_of_row.data(), num_blocks(), num_ragged_, ids);
  } else if (rule.captured_share < 1) {
    count = kernel_->fns.top_p(weights_.data(), num_blocks(), rule.captured_share, fixed_.data(), ids);
  } else {
    count = kernel_->fns.top_k(scores_of_row.data(), num_blocks(), num_blocks(), ids);
  }
  const auto is_below = [&](uint32_t id) { return scores_of_row[id] < rule.least_bound; };
  count = static_cast<uint32_t>(std::remove_if(ids, ids + count, is_below) - ids);
  if (count > uint64_t{rule.max_blocks} + num_ragged_) {
    ChooseBest(row, rule.max_blocks);
    return;
  }
  num_chosen_[row] = count;
}

void HeadChoice::SetPieces() {
  for (uint32_t row = 0; row < group_size_; ++row) {
    absolute_[row].clear();
    for (const uint32_t id : chosen(row)) absolute_[row].push_back(blocks_.begin + id);
    rows_[row] = absolute_[row];
  }
  pieces_.Set(rows_, block_tokens_, local_);
}

HeadRead HeadChoice::Read() {
  if (UnionTokens() == local_.size()) return {.tokens = local_};
  return {.pieces = pieces_.list()};
}

uint64_t HeadChoice::UnionTokens() {
  SetPieces();
  return CountTokens(pieces_.list().pieces);
}

}  // namespace tributary
