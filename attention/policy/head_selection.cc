#include "attention/policy/head_selection.h"

#include "attention/policy/maw.h"
#include "base/check.h"

namespace tributary {

std::span<const uint32_t> HeadSelection::OnSpill(const SelectionRule& rule,
                                                 std::span<const float> maw,
                                                 uint64_t resident_tokens) {
  SelectUnits(rule, maw, &kept_);
  for (const uint32_t offset : kept_) {
    tokens_.push_back(num_seen_ + offset);
    salience_.push_back(RelativeToUniform(maw[offset], resident_tokens));
  }
  num_seen_ += static_cast<uint32_t>(maw.size());
  return kept_;
}

std::span<const uint32_t> HeadSelection::OnAppend(const SelectionRule& rule,
                                                  std::span<const float> weights) {
  TRIBUTARY_CHECK_GE(weights.size(), num_seen_);
  SelectUnits(rule, weights, &tokens_);
  salience_.clear();
  for (const uint32_t token : tokens_) {
    salience_.push_back(RelativeToUniform(weights[token], weights.size()));
  }
  num_seen_ = static_cast<uint32_t>(weights.size());
  return tokens_;
}

std::span<const uint32_t> HeadSelection::Distil(const SelectionRule& rule) {
  SelectUnits(rule, salience_, &kept_);
  for (size_t row = 0; row < kept_.size();
       ++row) {  // kept_ ascends, so nothing is overwritten unread
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

}  // namespace tributary
