#include "policy/hgca/hgca.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace tributary {
namespace {

// What f32 cannot hold becomes its largest number: any weight is below it.
float ToThreshold(double threshold) {
  return static_cast<float>(std::min(threshold, double{std::numeric_limits<float>::max()}));
}

PolicyNeeds NeedsOf(const HgcaParams& hgca) {
  PolicyNeeds needs;
  // With beta 0 everything is selected, and the shard itself is read.
  if (hgca.beta > 0) needs.row_cache = RowCacheNeed{.max_rows = hgca.max_cache_tokens};
  return needs;
}

}  // namespace

HgcaPolicy::HgcaPolicy(const HgcaParams& hgca, const SparseParams& sparse)
    : hgca_(hgca), sparse_(sparse), needs_(NeedsOf(hgca)) {}

bool HgcaPolicy::IsAlwaysDense(uint32_t layer, uint32_t kv_head) const { return sparse_.IsAlwaysDense(layer, kv_head); }

bool HgcaPolicy::may_leave_out() const { return ToThreshold(hgca_.beta) > 0; }

uint64_t HgcaPolicy::FacetBytes(const FacetDemand& demand) const {
  return demand.resident_tokens * MawBytesPerToken(demand.num_layers, demand.num_kv_heads, demand.num_q_heads);
}

std::optional<SelectionRule> HgcaPolicy::RuleAt(HgcaMoment moment, uint64_t population) const {
  TRIBUTARY_CHECK_GT(population, uint64_t{0});
  const double threshold = hgca_.beta / static_cast<double>(population);
  SelectionRule rule{.threshold = ToThreshold(threshold), .keep_min = hgca_.keep_min};
  const uint64_t limit = hgca_.max_cache_tokens;
  switch (moment) {
    case HgcaMoment::kSpill:
      return rule;
    case HgcaMoment::kAppend:
      if (limit != 0) rule.keep_max = limit;
      return rule;
    case HgcaMoment::kCacheFull:
      if (limit == 0 || population <= limit) return std::nullopt;
      rule.threshold = ToThreshold(hgca_.beta);
      rule.keep_max = limit / 2;
      return rule;
  }
  return std::nullopt;
}

}  // namespace tributary
