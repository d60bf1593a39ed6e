// HGCA's rules (arXiv 2507.03153; constants and details as in the first author's code). What deviates is in
// policy/README.md.
#pragma once

#include "policy/hgca/hgca_params.h"
#include "policy/policy.h"
#include "policy/sparse_params.h"

namespace tributary {

class HgcaPolicy final : public AttentionPolicy {
 public:
  HgcaPolicy(const HgcaParams& hgca, const SparseParams& sparse);

  const PolicyNeeds& needs() const override { return needs_; }
  bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const override;
  bool may_leave_out() const override;
  // Of a MAW (MawBytesPerToken).
  uint64_t FacetBytes(const FacetDemand& demand) const override;
  // kSpill:     MAW >= beta / resident tokens, at least keep_min of the block.
  // kAppend:    mean weight >= beta / stored tokens, at least keep_min of the shard, at most max_cache_tokens.
  // kCacheFull: nullopt up to max_cache_tokens; beyond, salience >= beta (it is relative to uniform), at most half of
  //             max_cache_tokens, so that the work is not due again with the next block.
  std::optional<SelectionRule> RuleAt(SelectionMoment moment, uint64_t population) const override;

 private:
  const HgcaParams hgca_;
  const SparseParams sparse_;
  const PolicyNeeds needs_;
};

}  // namespace tributary
