#include "policy/policy.h"

#include "base/check.h"
#include "policy/hgca/hgca.h"

namespace tributary {
namespace {

class DensePolicy final : public AttentionPolicy {
 public:
  const PolicyNeeds& needs() const override { return needs_; }
  bool is_sparse() const override { return false; }
  bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const override { return true; }
  uint32_t keep_next() const override { return 0; }
  std::optional<SelectionRule> RuleAt(SelectionMoment moment, uint64_t population) const override {
    return std::nullopt;
  }

 private:
  const PolicyNeeds needs_{};
};

}  // namespace

std::unique_ptr<const AttentionPolicy> MakePolicy(const PolicyParams& params) {
  if (params.kind == PolicyKind::kDense) return std::make_unique<DensePolicy>();
  TRIBUTARY_CHECK(params.kind == PolicyKind::kHgca);
  return std::make_unique<HgcaPolicy>(params.hgca, params.sparse);
}

}  // namespace tributary
