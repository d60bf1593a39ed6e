// A shard of policy fluxion with random KV in it.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu_attention_service/policy/fluxion/fluxion_shard.h"
#include "policy/fluxion/query_section.h"
#include "tests/unit/cpu_attention_service/policy/shard_policy_fixture.h"

namespace tributary::testing {

class FluxionFixture : public ShardPolicyFixture<FluxionShard> {
 protected:
  FluxionFixture() : ShardPolicyFixture("fluxion") {}

  // What the query's section says of every head. `error_number` 0: no errors.
  struct Said {
    float lse_ln = 0;
    bool has_out = false;
    std::vector<PredictedBudget> budgets = {};  // [query head]
    uint32_t error_number = 0;
    float error = 0;
  };
  void SetSection(const Said& said) {
    const std::vector<float> lse_ln(kShape.num_q_heads, said.lse_ln), errors(kShape.num_q_heads, said.error);
    const std::vector<float> out(kShape.num_q_heads * kShape.head_dim, 0.0f);
    FluxionQueryParts parts{.lse_ln = lse_ln, .budgets = said.budgets};
    if (said.has_out) parts.out = out;
    if (said.error_number != 0) parts.errors = errors;
    parts.error_number = said.error_number;
    section_.resize(FluxionQuerySectionBytes({.num_q_heads = kShape.num_q_heads,
                                              .head_dim = kShape.head_dim,
                                              .has_out = said.has_out,
                                              .has_budgets = !said.budgets.empty(),
                                              .has_errors = said.error_number != 0}));
    EncodeFluxionQuerySection(parts, section_);
  }
  void SetSection(float lse_ln, bool has_out) { SetSection(Said{.lse_ln = lse_ln, .has_out = has_out}); }
};

}  // namespace tributary::testing
