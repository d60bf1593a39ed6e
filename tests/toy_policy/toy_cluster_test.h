// A cluster in which some requests are of the toy policy.
#pragma once

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/sim/sim_fixture.h"
#include "tests/toy_policy/toy_rules.h"

namespace tributary::toy {

class ToyClusterTest : public testing::SimTest {
 protected:
  ToyClusterTest() {
    static const bool is_added = (AddToyPolicy(), true);
    EXPECT_TRUE(is_added);
  }

  PolicyParams Toy(uint64_t every, double sample_rate) {
    return *ResolvePolicy({.name = "toy", .parameters = {{"every", every}, {"quality_sample_rate", sample_rate}}}, {});
  }

  SimOptions RandomOptions() {
    SimOptions options;
    options.seed = random_();
    options.model.seed = random_();
    options.model.shape.num_kv_heads = RandomInt(random_, 1u, 2u);
    options.num_nodes = std::vector<uint32_t>{1, 2, 4}[RandomInt(random_, 0, 2)];
    return options;
  }

  // The same tokens whatever is read, so that every position can be compared.
  SimRequest RandomRequest(const TinyModel& model, uint64_t every) {
    SimRequest request;
    request.prompt.resize(RandomInt(random_, 40, 160));
    for (uint32_t& token : request.prompt) token = random_() % model.vocab_size;
    request.max_tokens = RandomInt(random_, 2u, 60u);
    for (uint32_t i = 0; i < request.max_tokens; ++i) request.forced_tokens.push_back(random_() % model.vocab_size);
    request.layout.block_tokens = RandomInt(random_, 1u, 12u);
    request.layout.window_tokens = request.layout.block_tokens + RandomInt(random_, 0u, 20u);
    request.layout.sink_tokens = RandomInt(random_, 0u, 9u);
    request.cut.num_stripes = RandomInt(random_, 1u, 4u);
    request.cut.stripe_blocks = RandomInt<uint64_t>(random_, 1, 3);
    request.cut.head_parts = RandomInt(random_, 1u, model.shape.num_kv_heads);
    request.cut.layer_parts = RandomInt(random_, 1u, 2u);
    request.policy = Toy(every, std::vector{0.0, 0.3, 1.0}[RandomInt(random_, 0, 2)]);
    return request;
  }

  static void ExpectNear(const SimResult& a, const SimResult& b) {
    ASSERT_TRUE(a.status.ok()) << a.status;
    ASSERT_TRUE(b.status.ok()) << b.status;
    ASSERT_EQ(a.logits.size(), b.logits.size());
    for (size_t i = 0; i < a.logits.size(); ++i) {
      for (size_t t = 0; t < a.logits[i].size(); ++t) ASSERT_NEAR(a.logits[i][t], b.logits[i][t], 1e-3) << i;
    }
  }
};

}  // namespace tributary::toy
