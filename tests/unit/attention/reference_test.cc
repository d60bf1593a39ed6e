// The oracle itself, against values worked out by hand.
#include "attention/reference.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

std::vector<std::byte> Store(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * DTypeBytes(dtype));
  ConvertFromF32(dtype, values.data(), values.size(), bytes.data());
  return bytes;
}

// Two tokens with scores 0 and ln 3: weights 1/4 and 3/4.
TEST(ReferenceTest, TwoTokensByHand) {
  const float ln3 = std::log(3.0f);
  ReferenceInput input;
  input.shape = {1, 1, 2};
  input.softmax_scale = 0.5;
  const std::vector<float> q = {2, 0};
  input.q = q;
  for (DType k_dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const std::vector<std::byte> k = Store(k_dtype, {0, 9, ln3, -7});
    const std::vector<std::byte> v = Store(DType::kF16, {4, 0, 8, -4});
    input.k = k;
    input.v = v;
    input.k_dtype = k_dtype;
    input.v_dtype = DType::kF16;
    float stored_ln3 = 0;
    ConvertToF32(k_dtype, k.data() + 2 * DTypeBytes(k_dtype), 1, &stored_ln3);
    const double weight = std::exp(double{stored_ln3});
    const ReferencePartial partial = ReferenceAttention(input);
    EXPECT_NEAR(partial.lse_ln[0], std::log(1 + weight), 1e-14);
    EXPECT_NEAR(partial.out[0], (4 + 8 * weight) / (1 + weight), 1e-14);
    EXPECT_NEAR(partial.out[1], -4 * weight / (1 + weight), 1e-14);
  }
}

TEST(ReferenceTest, VisibleRangeAndNothingVisible) {
  ReferenceInput input;
  input.shape = {1, 1, 1};
  const std::vector<float> q = {1};
  const std::vector<std::byte> k = Store(DType::kF32, {1, 2, 3});
  const std::vector<std::byte> v = Store(DType::kF32, {10, 20, 30});
  input.q = q;
  input.k = k;
  input.v = v;
  input.visible = TokenRange{1, 2};
  const ReferencePartial one = ReferenceAttention(input);
  EXPECT_DOUBLE_EQ(one.out[0], 20);
  EXPECT_DOUBLE_EQ(one.lse_ln[0], 2);
  input.visible = TokenRange{2, 2};
  const ReferencePartial none = ReferenceAttention(input);
  EXPECT_EQ(none.out[0], 0);
  EXPECT_EQ(none.lse_ln[0], -std::numeric_limits<double>::infinity());
}

// Query heads 0, 1 read KV head 0; heads 2, 3 read KV head 1.
TEST(ReferenceTest, GroupedHeads) {
  ReferenceInput input;
  input.shape = {4, 2, 1};
  const std::vector<float> q = {1, 2, 3, 4};
  const std::vector<std::byte> k = Store(DType::kF32, {5, 7});
  const std::vector<std::byte> v = Store(DType::kF32, {50, 70});
  input.q = q;
  input.k = k;
  input.v = v;
  const ReferencePartial partial = ReferenceAttention(input);
  EXPECT_EQ(partial.out, (std::vector<double>{50, 50, 70, 70}));
  EXPECT_EQ(partial.lse_ln, (std::vector<double>{5, 10, 21, 28}));
}

// A sink is a token with its logit as score, whose value is 0.
TEST(ReferenceTest, ASinkIsATokenWithoutAValue) {
  ReferenceInput input;
  input.shape = {2, 1, 1};
  const std::vector<float> q = {1, 2}, sinks = {std::log(5.0f), -50};
  const std::vector<std::byte> k = Store(DType::kF32, {0, std::log(3.0f)});
  const std::vector<std::byte> v = Store(DType::kF32, {9, 18});
  input.q = q;
  input.k = k;
  input.v = v;
  input.sink_logits = sinks;
  const ReferencePartial partial = ReferenceAttention(input);
  EXPECT_NEAR(partial.out[0], (9 + 3 * 18) / (1 + 3 + 5.0), 1e-6);
  EXPECT_NEAR(partial.lse_ln[0], std::log(9.0), 1e-7);
  EXPECT_NEAR(partial.out[1], (9 + 9 * 18) / 10.0, 1e-6);  // the other head's is too small to count
  input.visible = TokenRange{1, 1};
  const ReferencePartial none = ReferenceAttention(input);
  EXPECT_EQ(none.out, (std::vector<double>{0, 0}));
  EXPECT_EQ(none.lse_ln, (std::vector<double>{sinks[0], sinks[1]}));
}

TEST(ReferenceTest, ACapBoundsScores) {
  ReferenceInput input;
  input.shape = {1, 1, 1};
  input.softmax_scale = 0.5;
  input.soft_cap = 3;
  const std::vector<float> q = {2};
  const std::vector<std::byte> k = Store(DType::kF32, {1, 1000});
  const std::vector<std::byte> v = Store(DType::kF32, {1, 0});
  input.q = q;
  input.k = k;
  input.v = v;
  const ReferencePartial partial = ReferenceAttention(input);
  const double small = std::exp(3 * std::tanh(1 / 3.0)), large = std::exp(3.0);
  EXPECT_NEAR(partial.out[0], small / (small + large), 1e-14);
  EXPECT_NEAR(partial.lse_ln[0], std::log(small + large), 1e-14);
}

}  // namespace
}  // namespace tributary
