// Exact attention: everything is read.
#include <memory>

#include "policy/policy.h"
#include "policy/policy_registry.h"

namespace tributary {
namespace {

class DensePolicy final : public AttentionPolicy {
 public:
  const PolicyNeeds& needs() const override { return needs_; }
  bool is_sparse() const override { return false; }
  bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const override { return true; }

 private:
  const PolicyNeeds needs_{};
};

}  // namespace

const PolicyRules& DenseRules() {
  static const PolicyRules rules{.name = "dense",
                                 .is_sparse = false,
                                 .parameters = {},
                                 .complete = nullptr,
                                 .make = [](const PolicyParams&) -> std::unique_ptr<const AttentionPolicy> {
                                   return std::make_unique<DensePolicy>();
                                 }};
  return rules;
}

}  // namespace tributary
