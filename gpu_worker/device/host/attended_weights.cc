#include "gpu_worker/device/host/attended_weights.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tributary {

static_assert(kKeyTileTokens <= kMaxRunSlots);

void AttendedWeights::Reserve(size_t max_tokens) {
  // Slots are attended in up to kMaxSlotRanges ranges, each of which ends with a tile that is not full.
  const size_t max_tiles = max_tokens / kKeyTileTokens + kMaxSlotRanges;
  if (weights_.size() >= max_tokens * group_size_) return;
  weights_.resize(max_tokens * group_size_);
  runs_.reserve(max_tiles);
  maxima_.reserve(max_tiles * group_size_);
}

void AttendedWeights::Begin() {
  runs_.clear();
  maxima_.clear();
  num_tokens_ = 0;
}

void AttendedWeights::AddTile(const AttendState& state, SlotRange slots) {
  const size_t tokens = slots.end - slots.begin;
  TRIBUTARY_CHECK_LE((num_tokens_ + tokens) * group_size_, weights_.size());
  const std::span<float> weights = std::span(weights_).subspan(num_tokens_ * group_size_, tokens * group_size_);
  for (uint32_t head = 0; head < group_size_; ++head) {
    std::copy_n(state.tile_weights().data() + head * kKeyTileTokens, tokens, weights.data() + head * tokens);
  }
  maxima_.insert(maxima_.end(), state.maximum().begin(), state.maximum().end());
  runs_.push_back({slots, weights});
  num_tokens_ += tokens;
}

std::span<const WeightRun> AttendedWeights::Finish(const float* lse_ln) {
  const float* maximum = maxima_.data();
  float* row = weights_.data();
  for (const WeightRun& run : runs_) {
    const size_t tokens = run.slots.end - run.slots.begin;
    for (uint32_t head = 0; head < group_size_; ++head, row += tokens) {
      const float scale = std::exp(*maximum++ - lse_ln[head]);
      for (size_t t = 0; t < tokens; ++t) row[t] *= scale;
    }
  }
  return runs_;
}

}  // namespace tributary
