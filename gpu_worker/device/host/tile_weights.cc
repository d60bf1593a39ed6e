#include "gpu_worker/device/host/tile_weights.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "policy/hgca/maw.h"

namespace tributary {

void TileWeights::Reserve(size_t max_tokens) {
  // Slots are attended in up to three ranges, each of which ends with a tile that is not full.
  const size_t max_tiles = max_tokens / kKeyTileTokens + 3;
  if (weights_.size() >= max_tokens * group_size_) return;
  aggregate_.resize(max_tokens);
  weights_.resize(max_tokens * group_size_);
  tiles_.reserve(max_tiles);
  maxima_.reserve(max_tiles * group_size_);
}

void TileWeights::Begin() {
  tiles_.clear();
  maxima_.clear();
  num_tokens_ = 0;
}

void TileWeights::AddTile(const AttendState& state, size_t tokens) {
  TRIBUTARY_CHECK_LE((num_tokens_ + tokens) * group_size_, weights_.size());
  float* to = weights_.data() + num_tokens_ * group_size_;
  for (uint32_t head = 0; head < group_size_; ++head, to += tokens) {
    std::copy_n(state.tile_weights().data() + head * kKeyTileTokens, tokens, to);
  }
  maxima_.insert(maxima_.end(), state.maximum().begin(), state.maximum().end());
  tiles_.push_back({num_tokens_, tokens});
  num_tokens_ += tokens;
}

std::span<const float> TileWeights::Finish(GroupAggregate how, const float* lse_ln) {
  const float* maximum = maxima_.data();
  for (const Tile& tile : tiles_) {
    float* const weights = weights_.data() + tile.begin * group_size_;
    for (uint32_t head = 0; head < group_size_; ++head) {
      const float scale = std::exp(*maximum++ - lse_ln[head]);
      float* const row = weights + head * tile.tokens;
      for (size_t t = 0; t < tile.tokens; ++t) row[t] *= scale;
    }
    AggregateGroup(how, {weights, tile.tokens * group_size_}, group_size_,
                   std::span(aggregate_).subspan(tile.begin, tile.tokens));
  }
  return std::span(aggregate_).first(num_tokens_);
}

}  // namespace tributary
