#include "policy/hgca/head_selection.h"

#include <algorithm>

#include "base/check.h"
#include "policy/hgca/maw.h"

namespace tributary {

std::span<const uint32_t> HeadSelection::OnSpill(const SelectionRule& rule, std::span<const float> maw,
                                                 uint64_t resident_tokens) {
  joined_.clear();
  for (const float salience : tail_) {
    joined_.push_back(salience / static_cast<float>(resident_tokens));
  }
  joined_.insert(joined_.end(), maw.begin(), maw.end());
  spread_.resize(maw.size());
  SpreadForward(keep_next_, joined_, tail_.size(), spread_);
  SelectUnits(rule, spread_, &kept_);
  for (const uint32_t offset : kept_) {
    tokens_.push_back(num_seen_ + offset);
    salience_.push_back(RelativeToUniform(maw[offset], resident_tokens));
  }
  num_seen_ += static_cast<uint32_t>(maw.size());
  KeepTail(maw, resident_tokens);
  return kept_;
}

std::span<const uint32_t> HeadSelection::OnAppend(const SelectionRule& rule, std::span<const float> weights) {
  TRIBUTARY_CHECK_GE(weights.size(), num_seen_);
  spread_.resize(weights.size());
  SpreadForward(keep_next_, weights, 0, spread_);
  SelectUnits(rule, spread_, &tokens_);
  salience_.clear();
  for (const uint32_t token : tokens_) {
    salience_.push_back(RelativeToUniform(weights[token], weights.size()));
  }
  num_seen_ = static_cast<uint32_t>(weights.size());
  tail_.clear();
  KeepTail(weights, weights.size());
  return tokens_;
}

std::span<const uint32_t> HeadSelection::Distil(const SelectionRule& rule) {
  // As SpreadForward, but rows are neighbours only if their tokens are.
  spread_ = salience_;
  for (size_t row = 0; row < tokens_.size(); ++row) {
    for (size_t back = 1; back <= row && tokens_[row] - tokens_[row - back] <= keep_next_; ++back) {
      if (IsMoreSalient(salience_[row - back], spread_[row])) spread_[row] = salience_[row - back];
    }
  }
  SelectUnits(rule, spread_, &kept_);
  for (size_t row = 0; row < kept_.size(); ++row) {  // kept_ ascends, so nothing is overwritten unread
    tokens_[row] = tokens_[kept_[row]];
    salience_[row] = salience_[kept_[row]];
  }
  tokens_.resize(kept_.size());
  salience_.resize(kept_.size());
  return kept_;
}

void HeadSelection::OnAttended(float alpha, std::span<const float> weights) {
  UpdateCachedSalience(alpha, weights, salience_);
}

// Saliences that are kept from before stay as they are: turned into weights and back they would be rounded once more,
// and a token on the threshold would fall to one side of it by the lengths of the blocks.
void HeadSelection::KeepTail(std::span<const float> weights, uint64_t population) {
  const std::span<const float> last = weights.last(std::min<size_t>(keep_next_, weights.size()));
  const size_t room = keep_next_ - last.size();
  if (tail_.size() > room) {
    tail_.erase(tail_.begin(), tail_.end() - static_cast<std::ptrdiff_t>(room));
  }
  for (const float weight : last) tail_.push_back(RelativeToUniform(weight, population));
}

}  // namespace tributary
