#include "proto/convert_request.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/proto/fill_message.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ConvertRequestTest, EveryFieldSurvivesTheRoundTrip) {
  v1::GenerateRequest message;
  FillMessage(message);
  message.clear_attention_policy();  // policies have tests of their own
  message.mutable_attention_policy()->set_name("hgca");
  const absl::StatusOr<GenerateSpec> spec = GenerateSpecFromProto(message);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(GenerateRequestToProto(*spec).DebugString(), message.DebugString());
}

TEST(ConvertRequestTest, WhatIsUnsetStaysSo) {
  const absl::StatusOr<GenerateSpec> spec = GenerateSpecFromProto(v1::GenerateRequest());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->placement.has_sink_tokens);
  EXPECT_EQ(spec->placement.kv_dtype, DType::kUnset);
  EXPECT_FALSE(spec->lease.asked());
  EXPECT_FALSE(GenerateRequestToProto(*spec).has_keep());
}

TEST(ConvertRequestTest, FieldsArriveWhereTheyBelong) {
  v1::GenerateRequest message;
  message.add_prompt_tokens(3);
  message.mutable_sampling()->set_top_p(0.5f);
  message.mutable_sampling()->set_min_p(0.25f);
  message.mutable_sampling()->set_presence_penalty(1);
  message.mutable_sampling()->set_frequency_penalty(-1);
  message.mutable_sampling()->set_repetition_penalty(1.5f);
  message.mutable_sampling()->add_logit_bias()->set_token(7);
  message.mutable_sampling()->mutable_logit_bias(0)->set_bias(-100);
  message.mutable_placement()->set_cut(v1::Placement::CUT_HEADS);
  message.mutable_placement()->set_remote_v_dtype(v1::DTYPE_INT4);
  message.add_forced_tokens(6);
  message.mutable_keep()->set_lease_ns(12);
  message.set_continue_request_id("chat");
  const GenerateSpec spec = *GenerateSpecFromProto(message);
  EXPECT_THAT(spec.prompt_tokens, ElementsAre(3));
  EXPECT_EQ(spec.sampling.top_p, 0.5f);
  EXPECT_EQ(spec.sampling.min_p, 0.25f);
  EXPECT_EQ(spec.sampling.presence_penalty, 1);
  EXPECT_EQ(spec.sampling.frequency_penalty, -1);
  EXPECT_EQ(spec.sampling.repetition_penalty, 1.5f);
  EXPECT_THAT(spec.sampling.logit_bias, ElementsAre(LogitBias{7, -100}));
  EXPECT_EQ(SamplingToProto(spec.sampling).DebugString(), message.sampling().DebugString());
  EXPECT_EQ(spec.placement.cut, Cut::kHeads);
  EXPECT_EQ(spec.placement.remote_v_dtype, DType::kInt4);
  EXPECT_THAT(spec.forced_tokens, ElementsAre(6));
  EXPECT_EQ(spec.lease.lease_ns, 12);
  EXPECT_EQ(spec.continue_request_id, "chat");
}

TEST(ConvertRequestTest, UnknownEnumsAreRefusedWithTheirValue) {
  v1::GenerateRequest message;
  message.mutable_placement()->set_cut(static_cast<v1::Placement::Cut>(42));
  EXPECT_THAT(GenerateSpecFromProto(message).status().ToString(), HasSubstr("42"));
  message.mutable_placement()->set_cut(v1::Placement::CUT_AUTO);
  message.mutable_placement()->set_kv_dtype(static_cast<v1::DType>(77));
  EXPECT_THAT(GenerateSpecFromProto(message).status().ToString(), HasSubstr("77"));
}

}  // namespace
}  // namespace tributary
