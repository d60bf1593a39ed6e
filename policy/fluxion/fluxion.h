// Fluxion's rules: at each query, each query head reads the blocks whose bounds on q.k (Quest, Tang et al. 2024,
// section 3) say that they matter, as many as it needs, in the block size that is cheapest for its group.
//
// After Fluxion (MSR 2026: budgets per query head, one granularity per group of heads).
// policy/README.md says what deviates. Pure; thread-compatible.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "policy/fluxion/fluxion_params.h"
#include "policy/policy.h"
#include "policy/sparse_params.h"

namespace tributary {

inline constexpr std::array<uint32_t, 4> kFluxionBlockTokens = {16, 32, 64, 128};
inline constexpr uint32_t kNumFluxionBlockSizes = kFluxionBlockTokens.size();

// The summaries of blocks of this size.
constexpr BlockSummaryOptions FluxionSummary(uint32_t block_tokens) {
  return {SummaryKind::kMinMax, SummaryStorage::kInt8, block_tokens};
}

class FluxionPolicy final : public AttentionPolicy {
 public:
  FluxionPolicy(const FluxionParams& fluxion, const SparseParams& sparse);

  const PolicyNeeds& needs() const override { return needs_; }
  // False where the parameters select every block.
  bool may_leave_out() const override { return may_leave_out_; }
  bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const override { return sparse_.IsAlwaysDense(layer, kv_head); }

  // The block sizes among which is chosen, ascending.
  std::span<const uint32_t> block_sizes() const {
    return std::span(kFluxionBlockTokens).subspan(first_size_idx_, num_sizes_);
  }
  // Of block_sizes()[0] in kFluxionBlockTokens.
  uint32_t first_size_idx() const { return first_size_idx_; }

 private:
  const SparseParams sparse_;
  const bool may_leave_out_;
  uint32_t first_size_idx_ = 0;
  uint32_t num_sizes_ = kNumFluxionBlockSizes;
  PolicyNeeds needs_;
};

// Blocks that a share in (0, 1] of `num_blocks` comes to: at least one where there is any, at most all.
uint32_t BudgetBlocks(double share, uint32_t num_blocks);

// Bytes that a KV head reads of its shard with blocks of one size: their summaries, then the tokens of the blocks that
// any head of the group has chosen.
struct SizeCost {
  uint64_t num_blocks = 0;
  uint64_t summary_bytes = 0;  // of a block
  uint64_t union_tokens = 0;
  uint64_t token_bytes = 0;  // K and V of a token as stored

  uint64_t bytes() const { return num_blocks * summary_bytes + union_tokens * token_bytes; }
};

}  // namespace tributary
