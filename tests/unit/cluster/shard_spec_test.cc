#include "cluster/shard_spec.h"

#include <functional>
#include <string>

#include "base/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using testing::HasSubstr;

ShardSpec GoodSpec() {
  ShardSpec spec;
  spec.shard_id = ShardId(9);
  spec.sequence_id = SequenceId(4);
  spec.model = {.num_q_heads = 8, .num_kv_heads = 2, .head_dim = 64};
  spec.num_layers = 6;
  spec.layer_begin = 0;
  spec.layer_end = 6;
  spec.kv_head_begin = 1;
  spec.kv_head_end = 2;
  spec.capacity_tokens = 1000;
  spec.k_dtype = DType::kBf16;
  spec.v_dtype = DType::kF32;
  return spec;
}

TEST(ShardSpecTest, GoodSpec) {
  EXPECT_TRUE(Validate(GoodSpec()).ok());
  EXPECT_EQ(GoodSpec().num_kv_heads_held(), 1u);
  EXPECT_EQ(GoodSpec().num_q_heads_held(), 4u);
  EXPECT_EQ(GoodSpec().num_layers_held(), 6u);
}

TEST(ShardSpecTest, EachBadFieldIsNamedWithItsValue) {
  struct Case {
    std::function<void(ShardSpec&)> spoil;
    const char* text;
  };
  const Case cases[] = {
      {[](ShardSpec& s) { s.model.head_dim = 0; }, "head_dim is 0"},
      {[](ShardSpec& s) { s.model.num_q_heads = 7; }, "num_q_heads 7 is not a multiple"},
      {[](ShardSpec& s) { s.stripe.stripe_idx = 1; }, "stripe_idx 1"},
      {[](ShardSpec& s) { s.num_layers = 0; }, "num_layers is 0"},
      {[](ShardSpec& s) { s.num_layers = limits::kMaxLayers + 1; }, "num_layers is 513"},
      {[](ShardSpec& s) { s.layer_begin = 6; }, "layers [6, 6)"},
      {[](ShardSpec& s) { s.layer_end = 7; }, "layers [0, 7)"},
      {[](ShardSpec& s) { s.kv_head_begin = 2; }, "KV heads [2, 2)"},
      {[](ShardSpec& s) { s.kv_head_end = 3; }, "KV heads [1, 3)"},
      {[](ShardSpec& s) { s.capacity_tokens = 0; }, "capacity_tokens is 0"},
      {[](ShardSpec& s) { s.capacity_tokens = limits::kMaxContextTokens + 1; }, "capacity_tokens is 2147483649"},
      {[](ShardSpec& s) { s.k_dtype = DType::kUnset; }, "k_dtype 0"},
      {[](ShardSpec& s) { s.v_dtype = static_cast<DType>(77); }, "v_dtype 77"},
  };
  for (const Case& c : cases) {
    ShardSpec spec = GoodSpec();
    c.spoil(spec);
    const absl::Status status = Validate(spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.text));
    EXPECT_THAT(std::string(status.message()), HasSubstr("shard 9 of sequence 4"));
  }
}

TEST(AttentionShapeTest, Limits) {
  EXPECT_TRUE(Validate(AttentionShape{32, 8, 128}).ok());
  for (const AttentionShape& shape :
       {AttentionShape{0, 1, 1}, AttentionShape{1, 0, 1}, AttentionShape{1, 1, 0},
        AttentionShape{limits::kMaxHeads + 1, 1, 1}, AttentionShape{1, 1, limits::kMaxHeadDim + 1},
        AttentionShape{limits::kMaxGroupSize + 1, 1, 64}, AttentionShape{3, 2, 64}}) {
    EXPECT_EQ(Validate(shape).code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace tributary
