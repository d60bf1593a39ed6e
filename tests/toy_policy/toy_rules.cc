#include "tests/toy_policy/toy_rules.h"

#include "policy/sparse_params.h"
#include "tests/toy_policy/toy_sections.h"

namespace tributary::toy {
namespace {

constexpr ParameterRow kRows[] = {
    CountRow("every", "toy", {1, 64}, 4, "one block in so many is read, 1 reads all"),
};

class ToyPolicy final : public AttentionPolicy {
 public:
  ToyPolicy() {
    // A mark for each token.
    needs_.records = {{.tokens_per_record = kBlockTokens, .record_bytes = kBlockTokens * sizeof(float)}};
  }

  const PolicyNeeds& needs() const override { return needs_; }
  bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const override { return false; }

 private:
  PolicyNeeds needs_;
};

}  // namespace

ToyParams ReadToyParams(const PolicyParams& params) { return {.every = params.count("every")}; }

const PolicyRules& ToyRules() {
  static const PolicyRules rules{.name = "toy",
                                 .is_sparse = true,
                                 .parameters = WithSparseParameters(kRows),
                                 .complete = nullptr,
                                 .make = [](const PolicyParams&) -> std::unique_ptr<const AttentionPolicy> {
                                   return std::make_unique<ToyPolicy>();
                                 }};
  return rules;
}

}  // namespace tributary::toy
