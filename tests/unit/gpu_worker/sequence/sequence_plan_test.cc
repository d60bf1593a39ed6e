#include "gpu_worker/sequence/sequence_plan.h"

#include <functional>
#include <string>

#include "gtest/gtest.h"
#include "policy/policy_registry.h"

namespace tributary {
namespace {

constexpr ModelLimits kModel{.shape = {.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8},
                             .num_layers = 4,
                             .vocab_size = 100,
                             .max_context_tokens = 1000,
                             .max_partial_slots = 4};

// Two stripes, the second one cut by heads.
SequencePlan GoodPlan() {
  SequencePlan plan;
  plan.sequence_id = SequenceId(7);
  plan.epoch = Epoch(3);
  plan.prompt_tokens = {1, 2, 3};
  plan.max_tokens = 200;
  plan.layout = {.sink_tokens = 4, .window_tokens = 32, .block_tokens = 16};
  plan.kv_dtype = DType::kBf16;
  for (uint64_t i = 0; i < 3; ++i) {
    ShardSpec shard;
    shard.shard_id = ShardId(i + 1);
    shard.sequence_id = plan.sequence_id;
    shard.epoch = plan.epoch;
    shard.model = kModel.shape;
    shard.num_layers = shard.layer_end = kModel.num_layers;
    shard.kv_head_begin = i == 2 ? 1 : 0;
    shard.kv_head_end = i == 1 ? 1 : 2;
    shard.stripe = {.origin = 4, .stripe_tokens = 32, .num_stripes = 2, .stripe_idx = i == 0 ? 0u : 1u};
    shard.capacity_tokens = 128;
    shard.k_dtype = shard.v_dtype = plan.kv_dtype;
    plan.shards.push_back({shard, {{"cpu-" + std::to_string(i), 1, "host:1"}}});
  }
  return plan;
}

TEST(SequencePlanTest, ShardsMustHoldWhatIsReservedForLaterTurns) {
  SequencePlan plan = GoodPlan();
  plan.reserved_context_tokens = 203;  // no more than this turn
  EXPECT_EQ(plan.max_context_tokens(), 202u);
  EXPECT_TRUE(Validate(plan, kModel).ok());
  plan.reserved_context_tokens = 400;
  EXPECT_EQ(plan.max_context_tokens(), 399u);
  EXPECT_NE(Validate(plan, kModel).message().find("has room for 128 tokens, needs"), std::string::npos);
  plan.reserved_context_tokens = 1002;
  EXPECT_NE(Validate(plan, kModel).message().find("1002 tokens reserved"), std::string::npos);
}

TEST(SequencePlanTest, WhatARebuiltSequenceHasHadIsChecked) {
  SequencePlan good = GoodPlan();
  good.reserved_context_tokens = 210;
  good.prompt_tokens.clear();  // the answer before went on
  good.past_turns = {{{1, 2, 3}, {4, 5}}, {{}, {6}}};
  good.answer_tokens = {7, 8};
  EXPECT_EQ(std::vector<uint32_t>(good.first_prompt().begin(), good.first_prompt().end()),
            (std::vector<uint32_t>{1, 2, 3}));
  EXPECT_TRUE(Validate(good, kModel).ok()) << Validate(good, kModel);
  const auto message = [&](const std::function<void(SequencePlan&)>& spoil) {
    SequencePlan plan = good;
    spoil(plan);
    return std::string(Validate(plan, kModel).message());
  };
  EXPECT_NE(message([](auto& plan) { plan.past_turns[0].prompt_tokens.clear(); }).find("the prompt is empty"),
            std::string::npos);
  EXPECT_NE(message([](auto& plan) { plan.past_turns[1].answer_tokens.clear(); }).find("a past turn has no answer"),
            std::string::npos);
  EXPECT_NE(message([](auto& plan) { plan.past_turns[0].answer_tokens[1] = 100; }).find("past answer token 1 is 100"),
            std::string::npos);
  EXPECT_NE(message([](auto& plan) { plan.past_turns[0].prompt_tokens[2] = 101; }).find("past prompt token 2 is 101"),
            std::string::npos);
  EXPECT_NE(message([](auto& plan) { plan.answer_tokens[0] = 102; }).find("answer token 0 is 102"), std::string::npos);
  EXPECT_NE(message([](auto& plan) { plan.answer_tokens.resize(201); }).find("201 tokens of the answer are there"),
            std::string::npos);
  const std::string too_long = message([](auto& plan) { plan.past_turns[0].prompt_tokens.resize(9); });
  EXPECT_NE(too_long.find("need a context of 211; 209 are reserved"), std::string::npos) << too_long;
}

// Policies that bound softmax weights by q.k do not serve a model that caps its scores.
TEST(SequencePlanTest, ASoftCapRefusesPoliciesByName) {
  ModelLimits capped = kModel;
  capped.has_soft_cap = true;
  const auto validate = [&](const PolicyRequest& request) {
    SequencePlan plan = GoodPlan();
    plan.policy = ResolvePolicy(request, {}).value();
    for (ShardPlacement& placement : plan.shards) placement.spec.policy = plan.policy;
    EXPECT_TRUE(Validate(plan, kModel).ok()) << request.name;
    return Validate(plan, capped);
  };
  EXPECT_TRUE(validate({}).ok());
  EXPECT_TRUE(validate({.name = "hgca"}).ok());
  EXPECT_TRUE(validate({.name = "delta", .parameters = {{"delta_nats", 0.0}}}).ok());
  for (const PolicyRequest& request : {PolicyRequest{.name = "delta"}, PolicyRequest{.name = "fluxion"}}) {
    const absl::Status status = validate(request);
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_NE(status.message().find("policy '" + request.name + "'"), std::string::npos) << status;
  }
}

TEST(SequencePlanTest, ATurnIsCheckedAgainstWhatIsReserved) {
  ContinuePlan plan{.sequence_id = SequenceId(7), .epoch = Epoch(3)};
  plan.turn.max_tokens = 10;
  const auto check = [&] { return Validate(plan, 50, 100, kModel); };
  EXPECT_TRUE(check().ok());  // no prompt: the answer goes on
  plan.turn.prompt_tokens.assign(41, 1);
  EXPECT_TRUE(check().ok());
  plan.turn.prompt_tokens.push_back(1);
  EXPECT_NE(check().message().find("need a context of 101; 100 are reserved"), std::string::npos) << check();
  plan.turn.prompt_tokens = {100};
  EXPECT_NE(check().message().find("prompt token 0 is 100"), std::string::npos) << check();
  plan.turn.prompt_tokens.clear();
  plan.turn.sampling.top_p = 7;
  EXPECT_NE(check().message().find("top_p is 7"), std::string::npos) << check();
  plan.turn = {};
  EXPECT_NE(check().message().find("max_tokens is 0"), std::string::npos) << check();
}

TEST(SequencePlanTest, AGoodPlanIsAccepted) {
  EXPECT_TRUE(Validate(GoodPlan(), kModel).ok()) << Validate(GoodPlan(), kModel);
  SequencePlan resident = GoodPlan();
  resident.layout = {.all_resident = true};
  resident.shards.clear();
  EXPECT_TRUE(Validate(resident, kModel).ok());
}

TEST(SequencePlanTest, EveryFaultIsNamed) {
  struct Case {
    std::function<void(SequencePlan&)> damage;
    std::string text;
  };
  const std::vector<Case> cases = {
      {[](SequencePlan& p) { p.prompt_tokens.clear(); }, "prompt is empty"},
      {[](SequencePlan& p) { p.max_tokens = 0; }, "max_tokens is 0"},
      {[](SequencePlan& p) { p.prompt_tokens[1] = 100; }, "prompt token 1 is 100"},
      {[](SequencePlan& p) { p.forced_tokens = {101}; }, "forced token 0 is 101"},
      {[](SequencePlan& p) { p.max_tokens = 1000; }, "exceed the model's 1000"},
      {[](SequencePlan& p) { p.kv_dtype = DType::kUnset; }, "kv_dtype"},
      {[](SequencePlan& p) { p.layout.window_tokens = 8; }, "window_tokens 8"},
      {[](SequencePlan& p) { p.sampling.temperature = -2; }, "temperature is -2"},
      {[](SequencePlan& p) { p.policy = *ResolvePolicy({.name = "hgca"}, {}); }, "another policy (dense)"},
      {[](SequencePlan& p) { p.top_logprobs = 101; }, "top_logprobs is 101, must be at most 100"},
      {[](SequencePlan& p) { p.shards[1].spec.epoch = Epoch(2); }, "at epoch 2"},
      {[](SequencePlan& p) { p.shards[1].spec.num_layers = 5; }, "shard 2 has 5 layers"},
      {[](SequencePlan& p) { p.shards[1].spec.k_dtype = static_cast<DType>(9); }, "k_dtype 9"},
      {[](SequencePlan& p) { p.shards[0].spec.stripe.origin = 0; }, "from 0 on"},
      {[](SequencePlan& p) { p.shards[0].spec.stripe.stripe_tokens = 24; }, "24 tokens"},
      {[](SequencePlan& p) { p.shards[0].spec.stripe.num_stripes = 5; }, "5 stripes"},
      {[](SequencePlan& p) { p.shards[0].spec.stripe.num_stripes = 3; }, "in different ways"},
      {[](SequencePlan& p) { p.shards[0].spec.capacity_tokens = 70; }, "room for 70 tokens"},
      {[](SequencePlan& p) { p.shards[2].spec.shard_id = ShardId(1); }, "shard id 1 names two"},
      {[](SequencePlan& p) { p.shards[0].holders.clear(); }, "shard 1 of sequence 7 has no holder"},
      {[](SequencePlan& p) { p.shards[0].holders.resize(2, p.shards[0].holders[0]); }, "'cpu-0' as a holder twice"},
      {[](SequencePlan& p) { p.shards.pop_back(); }, "stripe 1 of layer 0 KV head 1 has no"},
      {[](SequencePlan& p) { p.shards[1].spec.kv_head_end = 2; }, "has several"},
      {[](SequencePlan& p) { p.shards[0].spec.layer_begin = 1; }, "stripe 0 of layer 0"},
  };
  for (const Case& c : cases) {
    SequencePlan plan = GoodPlan();
    c.damage(plan);
    const absl::Status status = Validate(plan, kModel);
    EXPECT_FALSE(status.ok()) << c.text;
    EXPECT_NE(status.message().find(c.text), std::string::npos) << status;
    EXPECT_NE(status.message().find("sequence 7"), std::string::npos) << status;
  }
}

// Holders of a sparse policy's shard would choose by different queries.
TEST(SequencePlanTest, SeveralHoldersAreForExactAttention) {
  SequencePlan plan = GoodPlan();
  for (ShardPlacement& placement : plan.shards) placement.holders.push_back({"cpu-9", 1, "host:1"});
  EXPECT_TRUE(Validate(plan, kModel).ok());
  plan.policy = *ResolvePolicy({.name = "hgca"}, {});
  for (ShardPlacement& placement : plan.shards) placement.spec.policy = plan.policy;
  EXPECT_EQ(Validate(plan, kModel).code(), absl::StatusCode::kUnimplemented) << Validate(plan, kModel);
  for (ShardPlacement& placement : plan.shards) placement.holders.resize(1);
  EXPECT_TRUE(Validate(plan, kModel).ok()) << Validate(plan, kModel);
}

TEST(SequencePlanTest, TheModelsEndTokensStopATurnUnlessItIgnoresThem) {
  TurnPlan turn;
  turn.stop_tokens = {1};
  AddEndTokens({0, 9}, turn);
  EXPECT_EQ(turn.stop_tokens, (std::vector<uint32_t>{1, 0, 9}));
  turn.stop_tokens = {1};
  turn.ignore_eos = true;
  AddEndTokens({0, 9}, turn);
  EXPECT_EQ(turn.stop_tokens, (std::vector<uint32_t>{1}));
}

}  // namespace
}  // namespace tributary
