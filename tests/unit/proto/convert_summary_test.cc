#include "proto/convert_summary.h"

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/proto/fill_message.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;

TEST(ConvertSummaryTest, TheWorkersPartIsForwardedWhole) {
  v1::GenerateEvent::Summary message;
  FillMessage(message);
  // The coordinator's three fields.
  message.clear_queue_s();
  message.clear_ttft_s();
  message.clear_kept();
  EXPECT_EQ(SummaryToProto(SequenceSummaryFromProto(message)).DebugString(), message.DebugString());
}

TEST(ConvertSummaryTest, TheCoordinatorAddsThreeFields) {
  RequestSummary summary;
  summary.sequence.generated_tokens = 5;
  summary.queue_s = 0.25;
  summary.ttft_s = 0.5;
  EXPECT_FALSE(SummaryToProto(summary).has_kept());
  summary.kept = {"chat", 60 * kNsPerS, 100, 1000};
  const v1::GenerateEvent event = GenerateEventToProto(summary);
  EXPECT_EQ(event.summary().generated_tokens(), 5u);
  EXPECT_EQ(event.summary().queue_s(), 0.25);
  EXPECT_EQ(event.summary().ttft_s(), 0.5);
  EXPECT_EQ(event.summary().kept().request_id(), "chat");
  EXPECT_EQ(event.summary().kept().lease_ns(), 60 * kNsPerS);
  EXPECT_EQ(event.summary().kept().max_context_tokens(), 1000u);
  EXPECT_EQ(event.summary().kept().growth_tokens(), 900u);
}

TEST(ConvertSummaryTest, TokensPassWithTheirAlternatives) {
  v1::WorkerEvent::SequenceTokens message;
  FillMessage(message);
  const SequenceTokens tokens = SequenceTokensFromProto(message);
  EXPECT_EQ(SequenceTokensToProto(tokens).DebugString(), message.DebugString());
  const v1::GenerateEvent::TokenChunk chunk = TokenEventsToProto(tokens, 1 << 20).at(0).tokens();
  EXPECT_EQ(chunk.tokens_size(), 2);
  EXPECT_EQ(chunk.logprobs(1), message.logprobs(1));
  ASSERT_EQ(chunk.top_logprobs_size(), 2);
  EXPECT_EQ(chunk.top_logprobs(1).SerializeAsString(), message.top_logprobs(1).SerializeAsString());
}

TEST(ConvertSummaryTest, TokensAreSplitIntoMessagesOfABoundedSize) {
  SequenceTokens tokens;
  for (uint32_t i = 0; i < 37; ++i) {
    tokens.tokens.push_back(i);
    tokens.logprobs.push_back(-0.5f * static_cast<float>(i));
    tokens.top.push_back({std::vector<uint32_t>(100, i), std::vector<float>(100, -1.0f)});
  }
  v1::GenerateEvent::TokenChunk all;
  const std::vector<v1::GenerateEvent> events = TokenEventsToProto(tokens, 4096);
  EXPECT_GT(events.size(), 4u);
  for (const v1::GenerateEvent& event : events) {
    EXPECT_LE(event.ByteSizeLong(), 4096u);
    EXPECT_EQ(event.tokens().tokens_size(), event.tokens().top_logprobs_size());
    all.MergeFrom(event.tokens());
  }
  EXPECT_EQ(all.SerializeAsString(), TokenEventsToProto(tokens, 1 << 20).at(0).tokens().SerializeAsString());
  EXPECT_EQ(TokenEventsToProto(tokens, 1).size(), 37u);  // a token is not cut
}

TEST(ConvertSummaryTest, EventsOfAClientsStream) {
  const v1::GenerateEvent accepted = GenerateEventToProto(RequestAccepted{"r", SequenceId(3), Epoch(4), "gpu-0"});
  EXPECT_EQ(accepted.accepted().request_id(), "r");
  EXPECT_EQ(accepted.accepted().sequence_id(), 3u);
  EXPECT_EQ(accepted.accepted().epoch(), 4u);
  EXPECT_EQ(accepted.accepted().worker_id(), "gpu-0");
  const v1::GenerateEvent prefill = GenerateEventToProto(PrefillProgress{SequenceId(3), 1, 2, 0.5});
  EXPECT_EQ(prefill.prefill().layers_done(), 1u);
  EXPECT_EQ(prefill.prefill().num_layers(), 2u);
  EXPECT_EQ(prefill.prefill().fraction(), 0.5);
}

}  // namespace
}  // namespace tributary
