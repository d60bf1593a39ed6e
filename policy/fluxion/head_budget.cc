#include "policy/fluxion/head_budget.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tributary {
namespace {

constexpr float kNewWeight = 0.25f;     // of the newest measurement in ln c
constexpr float kUsualContrast = 0.6f;  // the mean of SmolLM2's heads on novels
constexpr float kRaiseOnMiss = 1.5f;
constexpr float kKeepOnSuccess = 0.98f;
constexpr float kMaxRaise = 64;
// Share that a head which was said to need nothing reads for each 1 that it has been raised by.
constexpr double kShareOfMissed = 1.0 / 64;

// ln(exp(a) + exp(b)); -inf is neutral.
double AddLn(double a, double b) {
  const double high = std::max(a, b);
  if (high == -std::numeric_limits<double>::infinity()) return high;
  return high + std::log1p(std::exp(std::min(a, b) - high));
}

}  // namespace

void HeadBudget::OnDense(float lse_dense_ln, std::span<const float> bound_lse_ln) {
  TRIBUTARY_CHECK_EQ(bound_lse_ln.size(), looseness_ln_.size());
  for (size_t size = 0; size < bound_lse_ln.size(); ++size) {
    const float measured = lse_dense_ln - bound_lse_ln[size];
    if (!std::isfinite(measured)) continue;
    float& known = looseness_ln_[size];
    known = std::isnan(known) ? measured : known + kNewWeight * (measured - known);
    is_calibrated_ = true;
  }
}

void HeadBudget::OnContrast(double contrast) {
  if (!std::isfinite(contrast)) return;
  const auto measured = static_cast<float>(contrast);
  contrast_ = std::isnan(contrast_) ? measured : contrast_ + kNewWeight * (measured - contrast_);
}

float HeadBudget::contrast() const { return std::isnan(contrast_) ? kUsualContrast : contrast_; }

void HeadBudget::OnSample(double error, double target) {
  // Written so that NaN is a miss.
  raise_ = error <= target ? std::max(1.0f, raise_ * kKeepOnSuccess) : std::min(kMaxRaise, raise_ * kRaiseOnMiss);
}

BlockRule HeadBudget::RuleOf(const FluxionParams& params, uint32_t size_idx, const BlockBounds& bounds,
                             float resident_lse_ln) const {
  TRIBUTARY_CHECK(is_calibrated_);
  const double looseness_ln = std::isnan(looseness_ln_[size_idx]) ? 0.0 : double{looseness_ln_[size_idx]};
  const double resident_ln =
      std::isnan(resident_lse_ln) ? -std::numeric_limits<double>::infinity() : double{resident_lse_ln};
  const double all_ln = AddLn(resident_ln, looseness_ln + double{bounds.lse_ln});
  BlockRule rule;
  rule.max_blocks = BudgetBlocks(std::min(1.0, params.max_budget * double{raise_}), bounds.num_blocks);
  const double of_error = params.target_output_error / std::max(double{contrast()}, 1e-20);
  const double may_drop = (params.captured_mass > 0 ? 1 - params.captured_mass : of_error) / double{raise_};
  // R + c S >= (1 - may_drop) T, solved for S / B; T = R + c B.
  rule.captured_share = 1 - may_drop * std::exp(all_ln - looseness_ln - double{bounds.lse_ln});
  const double min_mass = params.min_block_mass / double{raise_};
  if (min_mass > 0) rule.least_bound = static_cast<float>(std::log(min_mass) + all_ln - looseness_ln);
  return rule;
}

double HeadBudget::ShareOf(const FluxionParams& params, const PredictedBudget& predicted, uint32_t size_idx) const {
  const double raise{raise_};
  const double share = tributary::ShareOf(predicted, size_idx) * raise;
  const double least = (raise - 1) * kShareOfMissed;
  return std::min({std::max(share, least), params.max_budget * raise, 1.0});
}

}  // namespace tributary
