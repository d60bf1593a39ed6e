#include "gpu_worker/edge/worker_convert.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/convert.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;

v1::WorkerCommand::StartSequence StartMessage() {
  v1::WorkerCommand::StartSequence start;
  start.set_sequence_id(3);
  start.set_epoch(4);
  start.mutable_turn()->add_prompt_tokens(10);
  start.mutable_turn()->add_prompt_tokens(11);
  start.mutable_turn()->set_max_tokens(5);
  start.mutable_turn()->mutable_sampling()->set_temperature(0.5f);
  start.mutable_turn()->mutable_sampling()->set_seed(6);
  start.mutable_layout()->set_window_tokens(128);
  start.mutable_layout()->set_sink_tokens(16);
  start.mutable_layout()->set_block_tokens(32);
  start.set_kv_dtype(v1::DTYPE_BF16);
  start.mutable_turn()->add_stop_tokens(1);
  start.mutable_turn()->add_forced_tokens(2);
  start.mutable_attention_policy()->set_name("dense");
  start.mutable_turn()->set_top_logprobs(12);
  return start;
}

TEST(WorkerConvertTest, APlanKeepsEveryField) {
  v1::WorkerCommand::StartSequence start = StartMessage();
  ShardSpec shard;
  shard.shard_id = ShardId(77);
  shard.k_dtype = shard.v_dtype = DType::kBf16;
  *start.add_shards()->mutable_shard() = ShardSpecToProto(shard);
  v1::NodeEndpoint& holder = *start.mutable_shards(0)->add_holders();
  holder.set_node_id("cpu-0");
  holder.set_incarnation(8);
  holder.set_control_address("host:9");

  const absl::StatusOr<SequencePlan> plan = PlanFromProto(start, {0});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sequence_id, SequenceId(3));
  EXPECT_EQ(plan->epoch, Epoch(4));
  EXPECT_THAT(plan->prompt_tokens, ElementsAre(10, 11));
  EXPECT_EQ(plan->max_tokens, 5u);
  EXPECT_EQ(plan->sampling.temperature, 0.5f);
  EXPECT_EQ(plan->sampling.seed, 6u);
  EXPECT_EQ(plan->layout.sink_tokens, 16u);
  EXPECT_EQ(plan->layout.window_tokens, 128u);
  EXPECT_EQ(plan->layout.block_tokens, 32u);
  EXPECT_FALSE(plan->layout.all_resident);
  EXPECT_EQ(plan->kv_dtype, DType::kBf16);
  EXPECT_THAT(plan->stop_tokens, ElementsAre(1, 0));
  EXPECT_THAT(plan->forced_tokens, ElementsAre(2));
  EXPECT_EQ(plan->policy, PolicyParams{});
  EXPECT_EQ(plan->top_logprobs, 12u);
  ASSERT_EQ(plan->routes.size(), 1u);
  EXPECT_EQ(plan->routes[0].shard.shard_id, ShardId(77));
  EXPECT_EQ(plan->routes[0].node, (NodeEndpoint{"cpu-0", 8, "host:9"}));
}

TEST(WorkerConvertTest, ASequenceMayBeKept) {
  v1::WorkerCommand::StartSequence start = StartMessage();
  EXPECT_FALSE(PlanFromProto(start, {})->keep);
  start.mutable_turn()->set_keep(true);
  start.set_reserved_context_tokens(100);
  const absl::StatusOr<SequencePlan> plan = PlanFromProto(start, {});
  EXPECT_TRUE(plan->keep);
  EXPECT_EQ(plan->max_context_tokens(), 99u);  // the last token has no KV
  SequenceSummary summary;
  summary.generated_tokens = 7;
  const v1::WorkerEvent kept = KeptToProto(SequenceId(3), summary);
  EXPECT_EQ(kept.kept().sequence_id(), 3u);
  EXPECT_EQ(kept.kept().summary().generated_tokens(), 7u);
}

TEST(WorkerConvertTest, ATurnKeepsEveryField) {
  v1::WorkerCommand::ContinueSequence message;
  message.set_sequence_id(3);
  message.set_epoch(4);
  message.mutable_turn()->add_prompt_tokens(10);
  message.mutable_turn()->set_max_tokens(5);
  message.mutable_turn()->mutable_sampling()->set_temperature(0.5f);
  message.mutable_turn()->add_stop_tokens(1);
  message.mutable_turn()->add_forced_tokens(2);
  message.mutable_turn()->set_top_logprobs(3);
  message.mutable_turn()->set_keep(true);
  const ContinuePlan plan = ContinueFromProto(message, {0});
  EXPECT_EQ(plan.sequence_id, SequenceId(3));
  EXPECT_EQ(plan.epoch, Epoch(4));
  EXPECT_THAT(plan.turn.prompt_tokens, ElementsAre(10));
  EXPECT_EQ(plan.turn.max_tokens, 5u);
  EXPECT_EQ(plan.turn.sampling.temperature, 0.5f);
  EXPECT_THAT(plan.turn.stop_tokens, ElementsAre(1, 0));
  EXPECT_THAT(plan.turn.forced_tokens, ElementsAre(2));
  EXPECT_EQ(plan.turn.top_logprobs, 3u);
  EXPECT_TRUE(plan.turn.keep);
}

TEST(WorkerConvertTest, ARequestMayIgnoreTheEndToken) {
  v1::WorkerCommand::StartSequence start = StartMessage();
  start.mutable_turn()->set_ignore_eos(true);
  EXPECT_THAT(PlanFromProto(start, {0})->stop_tokens, ElementsAre(1));
}

TEST(WorkerConvertTest, AShardWithoutDTypeIsRefused) {
  v1::WorkerCommand::StartSequence start = StartMessage();
  start.add_shards();
  EXPECT_EQ(PlanFromProto(start, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(WorkerConvertTest, AShardWithoutAHolderIsRefused) {
  v1::WorkerCommand::StartSequence start = StartMessage();
  ShardSpec shard;
  shard.k_dtype = shard.v_dtype = DType::kBf16;
  *start.add_shards()->mutable_shard() = ShardSpecToProto(shard);
  EXPECT_EQ(PlanFromProto(start, {}).status().code(), absl::StatusCode::kInvalidArgument);
  start.mutable_shards(0)->add_holders()->set_node_id("cpu-0");
  EXPECT_TRUE(PlanFromProto(start, {}).ok());
}

TEST(WorkerConvertTest, StepsAndTheirAnswers) {
  v1::WorkerCommand::Step message;
  message.set_step_id(5);
  message.set_timeout_ns(123);
  message.add_sequence_ids(3);
  const StepCommand step = StepFromProto(message);
  EXPECT_EQ(step.step_id, StepId(5));
  EXPECT_EQ(step.timeout_ns, 123);
  EXPECT_THAT(step.sequence_ids, ElementsAre(SequenceId(3)));

  const std::vector<SequenceTokens> tokens = {{SequenceId(3), {9}, {-0.5f}, {{{9, 4}, {-0.5f, -2.0f}}}}};
  const v1::WorkerEvent done = StepDoneToProto(StepId(5), tokens, 0.25);
  EXPECT_EQ(done.step_done().step_id(), 5u);
  ASSERT_EQ(done.step_done().tokens_size(), 1);
  EXPECT_EQ(done.step_done().tokens(0).sequence_id(), 3u);
  EXPECT_THAT(done.step_done().tokens(0).tokens(), ElementsAre(9));
  EXPECT_THAT(done.step_done().tokens(0).logprobs(), ElementsAre(-0.5f));
  ASSERT_EQ(done.step_done().tokens(0).top_logprobs_size(), 1);
  EXPECT_THAT(done.step_done().tokens(0).top_logprobs(0).tokens(), ElementsAre(9, 4));
  EXPECT_THAT(done.step_done().tokens(0).top_logprobs(0).logprobs(), ElementsAre(-0.5f, -2.0f));
}

TEST(WorkerConvertTest, AnEndKeepsWhoIsToBlame) {
  SequenceSummary summary;
  summary.finish_reason = "length";
  summary.nodes.push_back({"cpu-0", 1, 100, 2000});
  summary.attention = AttentionQualitySummary{0.125, 4, 0.75, 0.5, 1, {{3, 1, 0.25, 0.5, 0.375}}};
  const v1::WorkerEvent message =
      EndedToProto(SequenceId(3), absl::DeadlineExceededError("too slow"), "cpu-0", summary);
  EXPECT_EQ(message.ended().status_code(), 4u);
  EXPECT_EQ(message.ended().message(), "too slow");
  EXPECT_EQ(message.ended().failed_node_id(), "cpu-0");
  EXPECT_EQ(message.ended().summary().nodes(0).kv_bytes(), 2000u);
  const auto& attention = message.ended().summary().attention();
  EXPECT_EQ(attention.remote_read_share(), 0.125);
  EXPECT_EQ(attention.samples(), 4u);
  EXPECT_EQ(attention.kept_mass_mean(), 0.75);
  EXPECT_EQ(attention.kept_mass_min(), 0.5);
  EXPECT_EQ(attention.fallback_heads(), 1u);
  EXPECT_EQ(attention.heads(0).layer(), 3u);
  EXPECT_EQ(attention.heads(0).kv_head(), 1u);
  EXPECT_EQ(attention.heads(0).kept_mass_min(), 0.375);
}

}  // namespace
}  // namespace tributary
