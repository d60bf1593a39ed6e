// A shard of policy fluxion with random KV in it.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu_attention_service/policy/fluxion/fluxion_shard.h"
#include "tests/unit/cpu_attention_service/policy/shard_policy_fixture.h"

namespace tributary::testing {

class FluxionFixture : public ShardPolicyFixture<FluxionShard> {
 protected:
  FluxionFixture() : ShardPolicyFixture("fluxion") {}

  std::vector<float> SetSection(float lse_ln, bool has_out) {
    std::vector<float> values(kShape.num_q_heads * (has_out ? 1 + kShape.head_dim : 1), 0.0f);
    std::fill_n(values.begin(), kShape.num_q_heads, lse_ln);
    section_.resize(values.size() * sizeof(float));
    std::memcpy(section_.data(), values.data(), section_.size());
    return values;
  }
};

}  // namespace tributary::testing
