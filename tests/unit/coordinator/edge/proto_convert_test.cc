#include "coordinator/edge/proto_convert.h"

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ProtoConvertTest, AGenerateRequestKeepsEveryField) {
  v1::GenerateRequest message;
  message.add_prompt_tokens(3);
  message.add_prompt_tokens(4);
  message.set_max_tokens(7);
  message.mutable_sampling()->set_temperature(0.5f);
  message.mutable_sampling()->set_top_k(40);
  message.mutable_sampling()->set_top_p(0.9f);
  message.mutable_sampling()->set_seed(99);
  message.mutable_placement()->set_window_tokens(128);
  message.mutable_placement()->set_has_sink_tokens(true);
  message.mutable_placement()->set_block_tokens(16);
  message.mutable_placement()->set_kv_dtype(v1::DTYPE_F16);
  message.mutable_placement()->set_cut(v1::Placement::CUT_BOTH);
  message.mutable_placement()->set_max_nodes(3);
  message.mutable_placement()->set_all_resident(true);
  message.add_stop_tokens(5);
  message.add_forced_tokens(6);
  message.mutable_attention_policy()->set_name("dense");
  message.set_request_id("mine");
  message.set_ignore_eos(true);
  message.set_top_logprobs(5);
  message.mutable_keep()->set_lease_ns(12);
  message.mutable_keep()->set_max_context_tokens(345);
  message.set_continue_request_id("chat");

  const absl::StatusOr<GenerateSpec> spec = GenerateSpecFromProto(message);
  ASSERT_TRUE(spec.ok()) << spec.status();
  // Onwards to the worker.
  const v1::WorkerCommand command = ToProto(action::StartSequence{StreamId(1), SequenceId(8), Epoch(9), *spec, {}});
  const auto& start = command.start();
  EXPECT_THAT(start.prompt_tokens(), ElementsAre(3, 4));
  EXPECT_EQ(start.sequence_id(), 8u);
  EXPECT_EQ(start.epoch(), 9u);
  EXPECT_EQ(start.max_tokens(), 7u);
  EXPECT_EQ(start.sampling().SerializeAsString(), message.sampling().SerializeAsString());
  EXPECT_EQ(start.placement().SerializeAsString(), message.placement().SerializeAsString());
  EXPECT_THAT(start.stop_tokens(), ElementsAre(5));
  EXPECT_THAT(start.forced_tokens(), ElementsAre(6));
  EXPECT_EQ(start.attention_policy().name(), "dense");
  EXPECT_TRUE(start.ignore_eos());
  EXPECT_EQ(start.top_logprobs(), 5u);
  EXPECT_EQ(start.reserved_context_tokens(), 345u);
  EXPECT_TRUE(start.keep());
  EXPECT_EQ(spec->request_id, "mine");
  EXPECT_EQ(spec->continue_request_id, "chat");
  EXPECT_EQ(spec->keep.lease_ns, 12);

  const v1::WorkerCommand next = ToProto(action::ContinueSequence{StreamId(1), SequenceId(8), Epoch(9), *spec});
  const auto& turn = next.continue_sequence();
  EXPECT_EQ(turn.sequence_id(), 8u);
  EXPECT_EQ(turn.epoch(), 9u);
  EXPECT_THAT(turn.prompt_tokens(), ElementsAre(3, 4));
  EXPECT_EQ(turn.max_tokens(), 7u);
  EXPECT_EQ(turn.sampling().SerializeAsString(), message.sampling().SerializeAsString());
  EXPECT_THAT(turn.stop_tokens(), ElementsAre(5));
  EXPECT_THAT(turn.forced_tokens(), ElementsAre(6));
  EXPECT_TRUE(turn.ignore_eos());
  EXPECT_TRUE(turn.keep());
  EXPECT_EQ(turn.top_logprobs(), 5u);
}

TEST(ProtoConvertTest, WhatIsKeptReachesTheClientAndTheStatus) {
  RequestSummary summary;
  summary.kept = {"chat", 60 * kNsPerS, 100, 1000};
  const v1::GenerateEvent event = ToProto(summary);
  EXPECT_EQ(event.summary().kept().request_id(), "chat");
  EXPECT_EQ(event.summary().kept().lease_ns(), 60 * kNsPerS);
  EXPECT_EQ(event.summary().kept().max_context_tokens(), 1000u);
  EXPECT_EQ(event.summary().kept().growth_tokens(), 900u);
  EXPECT_FALSE(ToProto(RequestSummary()).summary().has_kept());

  ClusterStatus status;
  status.kept = {{"chat", SequenceId(3), "gpu-0", 61 * kNsPerS, 100, 1000, 4096, 8192}};
  const v1::StatusResponse response = ToProto(status, kNsPerS);
  ASSERT_EQ(response.kept_sequences_size(), 1);
  const v1::KeptSequence& kept = response.kept_sequences(0);
  EXPECT_EQ(kept.request_id(), "chat");
  EXPECT_EQ(kept.worker_id(), "gpu-0");
  EXPECT_NEAR(kept.lease_left_s(), 60.0, 1e-9);
  EXPECT_EQ(kept.context_tokens(), 100u);
  EXPECT_EQ(kept.max_context_tokens(), 1000u);
  EXPECT_EQ(kept.resident_bytes(), 4096u);
  EXPECT_EQ(kept.shard_bytes(), 8192u);
}

TEST(ProtoConvertTest, AKeptSequenceIsAnEvent) {
  v1::WorkerEvent message;
  message.mutable_kept()->set_sequence_id(3);
  message.mutable_kept()->mutable_summary()->set_generated_tokens(5);
  const absl::StatusOr<Event> event = WorkerEventFromProto(StreamId(2), message);
  ASSERT_TRUE(event.ok()) << event.status();
  const auto& kept = std::get<event::WorkerKept>(*event);
  EXPECT_EQ(kept.stream, StreamId(2));
  EXPECT_EQ(kept.sequence_id, SequenceId(3));
  EXPECT_EQ(kept.summary.generated_tokens, 5u);
}

TEST(ProtoConvertTest, TokensPassWithTheirAlternatives) {
  v1::WorkerEvent message;
  auto& tokens = *message.mutable_step_done()->add_tokens();
  tokens.set_sequence_id(3);
  tokens.add_tokens(7);
  tokens.add_logprobs(-0.5f);
  auto& top = *tokens.add_top_logprobs();
  for (const uint32_t token : {7u, 2u}) top.add_tokens(token);
  for (const float logprob : {-0.5f, -1.5f}) top.add_logprobs(logprob);

  absl::StatusOr<Event> event = WorkerEventFromProto(StreamId(2), message);
  ASSERT_TRUE(event.ok()) << event.status();
  const TokenChunk& chunk = std::get<event::WorkerStepDone>(*event).tokens.at(0);
  const v1::GenerateEvent sent = ToProto(action::Tokens{.call = CallId(1), .tokens = chunk});
  EXPECT_THAT(sent.tokens().tokens(), ElementsAre(7));
  EXPECT_THAT(sent.tokens().logprobs(), ElementsAre(-0.5f));
  ASSERT_EQ(sent.tokens().top_logprobs_size(), 1);
  EXPECT_EQ(sent.tokens().top_logprobs(0).SerializeAsString(), top.SerializeAsString());
}

TEST(ProtoConvertTest, UnknownEnumsAreRefusedWithTheirValue) {
  v1::GenerateRequest request;
  request.mutable_placement()->set_cut(static_cast<v1::Placement::Cut>(42));
  EXPECT_THAT(GenerateSpecFromProto(request).status().ToString(), HasSubstr("42"));
  v1::NodeInfo node;
  node.set_role(static_cast<v1::NodeRole>(17));
  EXPECT_THAT(NodeFromProto(node).status().ToString(), HasSubstr("17"));
  v1::WorkerEvent nothing;
  EXPECT_FALSE(WorkerEventFromProto(StreamId(1), nothing).ok());
}

TEST(ProtoConvertTest, AnEndedSequenceKeepsStatusAndSummary) {
  v1::WorkerEvent message;
  auto& ended = *message.mutable_ended();
  ended.set_sequence_id(3);
  ended.set_status_code(14);
  ended.set_message("node cpu-1 is gone");
  ended.set_failed_node_id("cpu-1");
  auto& summary = *ended.mutable_summary();
  summary.set_finish_reason("length");
  summary.set_generated_tokens(5);
  summary.set_remote_tokens(1000);
  summary.set_attended_tokens_mean(12.5);
  auto& share = *summary.add_nodes();
  share.set_node_id("cpu-0");
  share.set_tokens(500);
  auto& stage = *summary.add_stages();
  stage.set_stage("qkv");
  stage.set_seconds(0.25);
  auto& attention = *summary.mutable_attention();
  attention.set_remote_read_share(0.125);
  attention.set_samples(2);
  attention.set_kept_mass_mean(0.75);
  attention.set_kept_mass_min(0.5);
  attention.set_fallback_heads(1);
  auto& head = *attention.add_heads();
  head.set_layer(3);
  head.set_kv_head(1);
  head.set_read_share(0.25);
  head.set_kept_mass_mean(0.5);
  head.set_kept_mass_min(0.375);

  absl::StatusOr<Event> event = WorkerEventFromProto(StreamId(2), message);
  ASSERT_TRUE(event.ok()) << event.status();
  const auto& end = std::get<event::WorkerEnded>(*event);
  EXPECT_EQ(end.status, absl::UnavailableError("node cpu-1 is gone"));
  EXPECT_EQ(end.failed_node_id, "cpu-1");
  EXPECT_EQ(ToProto(end.summary).summary().SerializeAsString(), summary.SerializeAsString());

  ended.set_status_code(12345);  // no code of ours
  EXPECT_EQ(std::get<event::WorkerEnded>(*WorkerEventFromProto(StreamId(2), message)).status.code(),
            absl::StatusCode::kUnknown);
}

}  // namespace
}  // namespace tributary
