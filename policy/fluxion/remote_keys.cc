#include "policy/fluxion/remote_keys.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "policy/fluxion/head_features.h"

namespace tributary {
namespace {

double Square(std::span<const float> x) {
  double sum = 0;
  for (const float value : x) sum += double{value} * double{value};
  return sum;
}

}  // namespace

RemoteKeys::RemoteKeys(std::span<float> memory, uint32_t head_dim)
    : memory_(memory), head_dim_(head_dim), key_sum_(head_dim) {}

RemoteKeys::Block RemoteKeys::BlockAt(uint32_t block) const {
  const std::span<float> all = memory_.subspan(size_t{block} * 3 * head_dim_, size_t{3} * head_dim_);
  return {all.first(head_dim_), all.subspan(head_dim_, head_dim_), all.last(head_dim_)};
}

uint32_t RemoteKeys::TokensOf(uint32_t block) const {
  const uint64_t before = uint64_t{block} * kFluxionCoarseTokens;
  return static_cast<uint32_t>(std::min<uint64_t>(kFluxionCoarseTokens, num_tokens_ - before));
}

void RemoteKeys::Add(std::span<const float> k, std::span<const float> v) {
  const auto idx = static_cast<uint32_t>(num_tokens_ / kFluxionCoarseTokens);
  TRIBUTARY_CHECK_LE((size_t{idx} + 1) * 3 * head_dim_, memory_.size());
  const Block block = BlockAt(idx);
  if (num_tokens_ % kFluxionCoarseTokens == 0) {
    std::fill(block.sum.begin(), block.sum.end(), 0.0f);
    std::fill(block.low.begin(), block.low.end(), std::numeric_limits<float>::infinity());
    std::fill(block.high.begin(), block.high.end(), -std::numeric_limits<float>::infinity());
  }
  for (uint32_t d = 0; d < head_dim_; ++d) {
    block.sum[d] += k[d];
    block.low[d] = std::min(block.low[d], k[d]);
    block.high[d] = std::max(block.high[d], k[d]);
    key_sum_[d] += double{k[d]};
  }
  const double square = Square(k);
  key_square_sum_ += square;
  key_norm_sum_ += std::sqrt(square);
  value_norm_sum_ += std::sqrt(Square(v));
  ++num_tokens_;
  if (num_tokens_ % kFluxionCoarseTokens == 0) whole_between_ += Square(block.sum) / kFluxionCoarseTokens;
}

void RemoteKeys::Score(std::span<const float> q, float softmax_scale, std::span<float> mean_scores,
                       std::span<float> bounds) const {
  TRIBUTARY_CHECK_EQ(mean_scores.size(), size_t{num_blocks()});
  TRIBUTARY_CHECK_EQ(bounds.size(), size_t{num_blocks()});
  for (uint32_t b = 0; b < num_blocks(); ++b) {
    const Block block = BlockAt(b);
    float sum = 0, bound = 0;
    for (uint32_t d = 0; d < head_dim_; ++d) {
      sum += q[d] * block.sum[d];
      bound += std::max(q[d] * block.low[d], q[d] * block.high[d]);
    }
    const auto tokens = static_cast<float>(TokensOf(b));
    mean_scores[b] = softmax_scale * sum / tokens + std::log(tokens);
    bounds[b] = softmax_scale * bound;
  }
}

double RemoteKeys::mean_key_norm() const {
  TRIBUTARY_CHECK_GT(num_tokens_, uint64_t{0});
  return key_norm_sum_ / static_cast<double>(num_tokens_);
}

double RemoteKeys::key_norm_deviation() const {
  const double mean = mean_key_norm();
  return std::sqrt(std::max(0.0, mean_square() - mean * mean));
}

double RemoteKeys::mean_value_norm() const {
  TRIBUTARY_CHECK_GT(num_tokens_, uint64_t{0});
  return value_norm_sum_ / static_cast<double>(num_tokens_);
}

double RemoteKeys::squared_mean() const {
  double sum = 0;
  for (const double of_dim : key_sum_) sum += of_dim * of_dim;
  return sum / static_cast<double>(num_tokens_) / static_cast<double>(num_tokens_);
}

double RemoteKeys::anisotropy() const { return squared_mean() / std::max(mean_square(), kLeastOfLog); }

double RemoteKeys::scatter() const {
  double between = whole_between_;
  if (num_tokens_ % kFluxionCoarseTokens != 0) {
    const uint32_t last = num_blocks() - 1;
    between += Square(BlockAt(last).sum) / TokensOf(last);
  }
  const double around = std::max(mean_square() - squared_mean(), kLeastOfLog);
  return (mean_square() - between / static_cast<double>(num_tokens_)) / around;
}

}  // namespace tributary
