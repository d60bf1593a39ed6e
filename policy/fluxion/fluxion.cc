#include "policy/fluxion/fluxion.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tributary {
namespace {

bool MayLeaveOut(const FluxionParams& params) {
  switch (params.mode) {
    case BudgetMode::kFixed:
      return params.budget < 1;
    case BudgetMode::kCalibrated:
      return params.captured_mass < 1 || params.min_block_mass > 0 || params.max_budget < 1;
    case BudgetMode::kPredictor:
    case BudgetMode::kOracle:
      return true;
  }
  return true;
}

}  // namespace

FluxionPolicy::FluxionPolicy(const FluxionParams& fluxion, const SparseParams& sparse)
    : sparse_(sparse), may_leave_out_(MayLeaveOut(fluxion)) {
  if (fluxion.block_tokens != 0) {
    const auto* const size = std::find(kFluxionBlockTokens.begin(), kFluxionBlockTokens.end(), fluxion.block_tokens);
    TRIBUTARY_CHECK(size != kFluxionBlockTokens.end());
    first_size_idx_ = static_cast<uint32_t>(size - kFluxionBlockTokens.begin());
    num_sizes_ = 1;
  }
  if (!may_leave_out_) return;  // the shard itself is read
  for (const uint32_t block_tokens : block_sizes()) needs_.block_summaries.push_back(FluxionSummary(block_tokens));
}

uint32_t BudgetBlocks(double share, uint32_t num_blocks) {
  if (num_blocks == 0) return 0;
  // A product that rounding has put just above a whole number is that number.
  const double blocks = std::ceil(share * num_blocks * (1 - 1e-12));
  return static_cast<uint32_t>(std::clamp(blocks, 1.0, static_cast<double>(num_blocks)));
}

}  // namespace tributary
