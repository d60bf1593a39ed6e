#include "policy/kept_mass.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tributary {

float KeptMass(float lse_sparse_ln, float lse_dense_ln) {
  if (std::isnan(lse_sparse_ln) || std::isnan(lse_dense_ln)) return 0.0f;
  if (lse_dense_ln == -std::numeric_limits<float>::infinity()) return 1.0f;
  if (lse_sparse_ln >= lse_dense_ln) return 1.0f;
  return std::exp(lse_sparse_ln - lse_dense_ln);
}

void KeptMassStats::Add(double kept_mass) {
  sum += kept_mass;
  min = std::min(min, kept_mass);
  ++count;
}

void KeptMassStats::Merge(const KeptMassStats& other) {
  sum += other.sum;
  min = std::min(min, other.min);
  count += other.count;
}

bool IsQualitySample(uint64_t step_idx, double rate) {
  if (rate <= 0) return false;
  if (step_idx == 0) return true;
  const auto step = static_cast<double>(step_idx);
  return std::floor(step * rate) != std::floor((step - 1) * rate);
}

void DenseFallback::OnSample(uint32_t kv_head, std::span<const float> kept_mass) {
  TRIBUTARY_CHECK_LT(kv_head, dense_.size());
  dense_[kv_head] =
      std::any_of(kept_mass.begin(), kept_mass.end(), [this](float kept) { return !(kept >= min_kept_mass_); });
}

}  // namespace tributary
