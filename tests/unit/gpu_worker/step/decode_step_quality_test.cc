// What a step tells the nodes of the heads whose output was too wrong at their last sample.
#include "gtest/gtest.h"
#include "tests/unit/gpu_worker/step/decode_step_fixture.h"

namespace tributary {
namespace {

// Measures the second step, and then one in a hundred.
PolicyParams TooWrongAbove(double max_output_error) {
  PolicyParams params = *ResolvePolicy({.name = "hgca"}, {});
  params.Set("quality_sample_rate", 0.01);
  params.Set("max_output_error", max_output_error);
  return params;
}

// One slot of 10 tokens: the answer of one KV head reads none of them, all others read everything. Every value is 1,
// and nothing is resident.
void AddWrongHead(uint32_t layer, uint32_t kv_head, AttentionQuality* quality) {
  const AttentionShape shape = TinyModel().shape;
  const std::vector<float> out(size_t{shape.num_q_heads} * shape.head_dim, 1.0f), lse_ln(shape.num_q_heads, 0.0f);
  const std::vector<float> nothing(shape.num_q_heads, kEmptyLse);
  std::vector<float> answer_lse_ln = lse_ln;
  for (uint32_t i = 0; i < shape.group_size(); ++i) answer_lse_ln[kv_head * shape.group_size() + i] = kEmptyLse;
  const std::vector<uint32_t> all(shape.num_kv_heads, 10);
  std::vector<uint32_t> attended = all;
  attended[kv_head] = 0;
  quality->AddLayer({.layer = layer,
                     .remote_tokens = 10,
                     .num_slots = 1,
                     .resident = {out, nothing},
                     .answer = {out, answer_lse_ln},
                     .sample = {out, lse_ln},
                     .attended_tokens = attended,
                     .sampled_tokens = all});
}

using DecodeStepQualityTest = testing::DecodeStepNodeTest;

// Shard 10 + h holds KV head h. At its last sample KV head 1 of layer 2 was too wrong: its shard is told so, with each
// query of the layer from then on.
TEST_F(DecodeStepQualityTest, QueriesNameTheHeadsThatAreToBeDense) {
  AttentionQuality quality(TooWrongAbove(0.01), TinyModel().shape, 3);
  quality.BeginStep();
  ASSERT_TRUE(quality.BeginStep());
  AddWrongHead(2, 1, &quality);
  quality.EndStep(1, 1);
  ASSERT_TRUE(quality.wants_dense(2, 1));
  row_.quality = &quality;
  for (int step = 0; step < 2; ++step) {
    node_.dense_heads.clear();
    Run();
    EXPECT_TRUE(row_.status.ok()) << row_.status;
    EXPECT_FALSE(row_.measured);
    ASSERT_EQ(node_.dense_heads.size(), 1u);
    const std::vector<uint32_t> first_of_the_shard = {1};
    EXPECT_EQ((node_.dense_heads[{2, 11}]), first_of_the_shard);
  }
  node_.dense_heads.clear();
  row_.quality = nullptr;  // as of an appended prompt, which is answered by everything anyway
  Run();
  EXPECT_TRUE(node_.dense_heads.empty());
}

TEST_F(DecodeStepQualityTest, WithoutALimitNobodyIsNamed) {
  AttentionQuality quality(TooWrongAbove(0), TinyModel().shape, 3);
  quality.BeginStep();
  ASSERT_TRUE(quality.BeginStep());
  AddWrongHead(2, 1, &quality);
  quality.EndStep(1, 1);
  row_.quality = &quality;
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  EXPECT_TRUE(node_.dense_heads.empty());
}

}  // namespace
}  // namespace tributary
