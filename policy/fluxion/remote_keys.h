// What a worker keeps of the keys and values of one KV head that have left it: their coarse blocks, and moments. From
// these a predictor's features of the remote tokens come (feature_spec.h); nothing is read of a node.
//
// Pure; thread-compatible. Sums are f64, blocks f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "policy/fluxion/feature_spec.h"

namespace tributary {

class RemoteKeys {
 public:
  // Of the memory that blocks of so many remote tokens need.
  static constexpr uint64_t Floats(uint64_t max_tokens, uint32_t head_dim) {
    return (max_tokens + kFluxionCoarseTokens - 1) / kFluxionCoarseTokens * 3 * head_dim;
  }

  // `memory` has Floats(), filled with anything, and outlives this.
  RemoteKeys(std::span<float> memory, uint32_t head_dim);

  // Adds the next token. REQUIRES (checked): there is room.
  void Add(std::span<const float> k, std::span<const float> v);

  uint64_t num_tokens() const { return num_tokens_; }
  uint32_t num_blocks() const {
    return static_cast<uint32_t>((num_tokens_ + kFluxionCoarseTokens - 1) / kFluxionCoarseTokens);
  }

  // c and u of each block (feature_spec.h): f32 [num_blocks()].
  void Score(std::span<const float> q, float softmax_scale, std::span<float> mean_scores,
             std::span<float> bounds) const;

  // Means over the tokens. REQUIRES (checked): there are some.
  double mean_key_norm() const;
  double key_norm_deviation() const;
  double mean_value_norm() const;
  double anisotropy() const;  // |mean k|^2 / mean |k|^2
  double scatter() const;     // mean |k - mean of its block|^2 / mean |k - mean k|^2

 private:
  struct Block {
    std::span<float> sum, low, high;  // [head_dim]
  };
  Block BlockAt(uint32_t block) const;
  uint32_t TokensOf(uint32_t block) const;
  double mean_square() const { return key_square_sum_ / static_cast<double>(num_tokens_); }
  // |mean k|^2
  double squared_mean() const;

  const std::span<float> memory_;  // [block][sum, low, high][head_dim]
  const uint32_t head_dim_;
  uint64_t num_tokens_ = 0;
  double key_norm_sum_ = 0;
  double key_square_sum_ = 0;  // of |k|^2
  double value_norm_sum_ = 0;
  double whole_between_ = 0;     // sum over whole blocks of |their sum|^2 / their tokens
  std::vector<double> key_sum_;  // [head_dim]
};

}  // namespace tributary
