// HGCA's rules (arXiv 2507.03153; constants and details as in the first author's code). What deviates is in
// policy/README.md.
#pragma once

#include <cstdint>
#include <optional>

#include "policy/hgca/hgca_params.h"
#include "policy/policy.h"
#include "policy/selection.h"
#include "policy/sparse_params.h"

namespace tributary {

// The moments at which a KV head of a shard selects. The population is the tokens over which the saliences' softmax was
// taken.
enum class HgcaMoment {
  // A block has been stored. The saliences are the MAW that travelled with it, the population the resident tokens. The
  // kept tokens join those selected before.
  kSpill,
  // Appended queries have read the whole shard. The saliences are their mean weights, the population the tokens stored.
  // What is kept replaces the selection.
  kAppend,
  // The selection may have become too much. The saliences are those of the selected tokens, relative to uniform; these
  // tokens are the population. What is kept replaces the selection.
  kCacheFull,
};

class HgcaPolicy final : public AttentionPolicy {
 public:
  HgcaPolicy(const HgcaParams& hgca, const SparseParams& sparse);

  const PolicyNeeds& needs() const override { return needs_; }
  bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const override;
  bool may_leave_out() const override;
  // It chooses by weights of the softmax as it was.
  bool serves_soft_cap() const override { return true; }
  // The bytes of a MAW (MawBytesPerToken).
  uint64_t FacetBytes(const FacetDemand& demand) const override;

  // The rule by which one KV head selects (SelectUnits); nullopt: nothing changes at this moment.
  //
  // kSpill:     MAW >= beta / resident tokens, at least keep_min of the block.
  // kAppend:    mean weight >= beta / stored tokens, at least keep_min of the shard, at most max_cache_tokens.
  // kCacheFull: nullopt up to max_cache_tokens; beyond, salience >= beta (it is relative to uniform), at most half of
  //             max_cache_tokens, so that the work is not due again with the next block.
  //
  // REQUIRES (checked): population > 0; where there is nothing to judge there is nothing to select either.
  std::optional<SelectionRule> RuleAt(HgcaMoment moment, uint64_t population) const;

 private:
  const HgcaParams hgca_;
  const SparseParams sparse_;
  const PolicyNeeds needs_;
};

}  // namespace tributary
