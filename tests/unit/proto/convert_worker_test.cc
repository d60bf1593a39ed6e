#include "proto/convert_worker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/convert.h"
#include "proto/convert_policy.h"
#include "tests/unit/proto/fill_message.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Every field set, and what is checked set so that it passes.
v1::WorkerCommand::StartSequence StartMessage() {
  v1::WorkerCommand::StartSequence start;
  FillMessage(start);
  start.set_kv_dtype(v1::DTYPE_F16);
  start.clear_attention_policy();
  *start.mutable_attention_policy() = PolicyToProto(CompleteRequest(PolicyParams{}));
  start.clear_shards();
  ShardPlacement shard;
  shard.spec.shard_id = ShardId(77);
  shard.spec.k_dtype = shard.spec.v_dtype = DType::kBf16;
  shard.holders = {{"cpu-0", 8, "host:9"}, {"cpu-1", 9, "host:10"}};
  *start.add_shards() = ShardPlacementToProto(shard);
  return start;
}

TEST(ConvertWorkerTest, APlanSurvivesTheRoundTrip) {
  const v1::WorkerCommand::StartSequence start = StartMessage();
  const absl::StatusOr<SequencePlan> plan = SequencePlanFromProto(start);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(WorkerCommandToProto(*plan).start().DebugString(), start.DebugString());
  EXPECT_EQ(plan->shards.at(0).holders.at(1).node_id, "cpu-1");
}

TEST(ConvertWorkerTest, TheOtherCommandsSurviveTheRoundTrip) {
  v1::WorkerCommand::ContinueSequence turn;
  FillMessage(turn);
  EXPECT_EQ(WorkerCommandToProto(ContinuePlanFromProto(turn)).continue_sequence().DebugString(), turn.DebugString());
  v1::WorkerCommand::Step step;
  FillMessage(step);
  EXPECT_EQ(WorkerCommandToProto(StepFromProto(step)).step().DebugString(), step.DebugString());
  v1::WorkerCommand::StopSequence stop;
  FillMessage(stop);
  EXPECT_EQ(WorkerCommandToProto(StopFromProto(stop)).stop().DebugString(), stop.DebugString());
}

TEST(ConvertWorkerTest, AShardWithoutADTypeOrAHolderIsRefused) {
  v1::WorkerCommand::StartSequence start = StartMessage();
  start.add_shards();
  EXPECT_TRUE(absl::IsInvalidArgument(SequencePlanFromProto(start).status()));
  start = StartMessage();
  start.mutable_shards(0)->clear_holders();
  EXPECT_THAT(SequencePlanFromProto(start).status().ToString(), HasSubstr("has no holder"));
}

TEST(ConvertWorkerTest, AQuantisedResidentDTypeIsRefused) {
  v1::WorkerCommand::StartSequence start = StartMessage();
  start.set_kv_dtype(v1::DTYPE_INT8);
  EXPECT_THAT(SequencePlanFromProto(start).status().ToString(), HasSubstr("kv_dtype int8"));
}

// Of each kind; the oneof has but one at a time.
TEST(ConvertWorkerTest, EveryEventSurvivesTheRoundTrip) {
  const auto* kinds = v1::WorkerEvent::descriptor()->FindOneofByName("event");
  ASSERT_GE(kinds->field_count(), 7);
  for (int i = 0; i < kinds->field_count(); ++i) {
    SCOPED_TRACE(kinds->field(i)->name());
    v1::WorkerEvent message;
    FillMessage(*message.GetReflection()->MutableMessage(&message, kinds->field(i)));
    if (message.has_hello()) message.mutable_hello()->set_role(v1::NODE_ROLE_GPU_WORKER);
    if (message.has_ended()) message.mutable_ended()->set_status_code(14);
    for (v1::GenerateEvent::Summary* summary :
         {message.has_ended() ? message.mutable_ended()->mutable_summary() : nullptr,
          message.has_kept() ? message.mutable_kept()->mutable_summary() : nullptr}) {
      if (summary == nullptr) continue;
      summary->clear_queue_s();  // the coordinator's
      summary->clear_ttft_s();
      summary->clear_kept();
    }
    const absl::StatusOr<WorkerEvent> event = WorkerEventFromProto(message);
    ASSERT_TRUE(event.ok()) << event.status();
    EXPECT_EQ(WorkerEventToProto(*event).DebugString(), message.DebugString());
  }
}

TEST(ConvertWorkerTest, AnEndKeepsItsStatusAndWhoIsToBlame) {
  v1::WorkerEvent message = WorkerEventToProto(
      SequenceEnded{SequenceId(3), absl::DeadlineExceededError("too slow"), "cpu-0", SequenceSummary{}});
  EXPECT_EQ(message.ended().status_code(), 4u);
  EXPECT_EQ(message.ended().message(), "too slow");
  EXPECT_EQ(message.ended().failed_node_id(), "cpu-0");
  EXPECT_EQ(std::get<SequenceEnded>(*WorkerEventFromProto(message)).status, absl::DeadlineExceededError("too slow"));
  message.mutable_ended()->set_status_code(12345);  // no code of ours
  EXPECT_EQ(std::get<SequenceEnded>(*WorkerEventFromProto(message)).status.code(), absl::StatusCode::kUnknown);
}

TEST(ConvertWorkerTest, AnEventWithoutAKindIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(WorkerEventFromProto(v1::WorkerEvent()).status()));
}

}  // namespace
}  // namespace tributary
