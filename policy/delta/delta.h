// The rules of `delta`: at each query, each query head reads the single tokens that coarse codes of their keys say
// matter: those whose score lies within delta of the highest one, at most a share of all, and exactly.
//
// After Faster Flash Decoding (2026: a scan of 2-bit keys, a threshold relative to a maximum that is known), on the
// node that has K and V. policy/README.md says what deviates. Pure; thread-compatible.
#pragma once

#include <cstdint>

#include "policy/delta/delta_params.h"
#include "policy/policy.h"
#include "policy/sparse_params.h"

namespace tributary {

class DeltaPolicy final : public AttentionPolicy {
 public:
  DeltaPolicy(const DeltaParams& delta, const SparseParams& sparse);

  const PolicyNeeds& needs() const override { return needs_; }
  // False where the parameters read every token.
  bool may_leave_out() const override { return may_leave_out_; }
  // The highest scores are the highest ones with a cap, too; a distance in nats is another.
  bool serves_soft_cap() const override { return delta_.delta_nats == 0; }
  bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const override { return sparse_.IsAlwaysDense(layer, kv_head); }

  // Of `num_tokens` remote tokens, how many a query head may read: at least one where there is any.
  uint32_t MaxTokens(uint64_t num_tokens) const;

 private:
  const DeltaParams delta_;
  const SparseParams sparse_;
  const bool may_leave_out_;
  PolicyNeeds needs_;
};

}  // namespace tributary
