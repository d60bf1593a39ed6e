// Scores of key codes: against f64, and bit for bit between the variants.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/aligned_buffer.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "cpu_attention_service/kernels/selection/block_selection.h"
#include "kv_store/key_codes.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

// Records of random keys, and queries of which some dims are much larger.
class Codes {
 public:
  Codes(uint32_t bits, uint32_t head_dim, uint32_t num_records, uint32_t group_size, std::mt19937_64& random)
      : layout_(MakeKeyCodeLayout(bits, head_dim)),
        num_tokens_(64 * num_records),
        group_size_(group_size),
        records_(size_t{num_records} * layout_.record_bytes),
        q_(size_t{group_size} * head_dim) {
    std::normal_distribution<float> normal;
    std::vector<float> keys(size_t{64} * head_dim);
    for (uint32_t record = 0; record < num_records; ++record) {
      for (float& key : keys) key = normal(random) + 0.5f;
      EncodeKeyRecord(layout_, keys.data(), records_.data() + size_t{record} * layout_.record_bytes);
    }
    for (size_t i = 0; i < q_.size(); ++i) q_[i] = normal(random) * (i % head_dim % 16 == 3 ? 8.0f : 1.0f);
  }

  ScoreKeysArgs args() const {
    ScoreKeysArgs args;
    args.layout = layout_;
    args.records = records_.data();
    args.num_tokens = num_tokens_;
    args.q = q_.data();
    args.group_size = group_size_;
    args.softmax_scale = 0.125f;
    args.score_stride = num_tokens_;
    return args;
  }
  std::vector<float> Score(const BlockSelectionKernel& kernel) const {
    ScoreKeysArgs args = this->args();
    std::vector<float> scores(size_t{group_size_} * args.score_stride, 77.0f);
    args.scores = scores.data();
    EXPECT_TRUE(block_selection::Validate(args).ok());
    kernel.fns.score_keys(args);
    return scores;
  }
  // Of what the codes stand for; rounding q to int8 is off by half a step for each dim of the key.
  double Expected(uint32_t head, uint32_t token, double* tolerance) const {
    const float* const q = q_.data() + size_t{head} * layout_.head_dim;
    std::vector<float> key(layout_.head_dim);
    DecodeKeyCodes(layout_, records_.data() + token / 64 * layout_.record_bytes, token % 64, key.data());
    double score = 0, largest = 0, distance = 0;
    for (uint32_t d = 0; d < layout_.head_dim; ++d) {
      score += double{q[d]} * double{key[d]};
      distance += std::abs(key[d]);
      largest = std::max(largest, double{std::abs(q[d])});
    }
    *tolerance = 0.125 * (largest / 127 / 2 * distance * 1.01 + 1e-4);
    return 0.125 * score;
  }
  std::vector<float>& q() { return q_; }

 private:
  const KeyCodeLayout layout_;
  const uint32_t num_tokens_;
  const uint32_t group_size_;
  AlignedBuffer<std::byte> records_;
  std::vector<float> q_;
};

TEST(KeyScores, AreThoseOfTheDefinitionInEveryVariant) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 40; ++round) {
    const uint32_t bits = std::array{1u, 2u, 4u}[RandomInt(random, 0, 2)];
    const uint32_t head_dim = std::array{16u, 64u, 72u, 80u, 112u, 128u, 256u}[RandomInt(random, 0, 6)];
    const uint32_t records = RandomInt(random, 1u, 11u), tokens = 64 * records;
    const uint32_t group = RandomInt(random, 1u, RandomInt(random, 0, 4) == 0 ? 40u : 8u);
    SCOPED_TRACE(::testing::Message() << bits << " bits, head_dim " << head_dim << ", tokens " << tokens << ", group "
                                      << group);
    Codes codes(bits, head_dim, records, group, random);
    const std::vector<float> plain = codes.Score(*block_selection::Find("scalar").value());
    for (uint32_t head = 0; head < group; ++head) {
      for (uint32_t token = 0; token < tokens; token += 5) {
        double tolerance = 0;
        const double expected = codes.Expected(head, token, &tolerance);
        ASSERT_NEAR(plain[size_t{head} * tokens + token], expected, tolerance) << "head " << head << " token " << token;
      }
    }
    for (const BlockSelectionKernel& kernel : block_selection::All()) {
      if ((kernel.required_isa & ~cpu_kernels::SupportedIsa()) != 0) continue;
      const std::vector<float> scores = codes.Score(kernel);
      for (uint32_t head = 0; head < group; ++head) {
        const size_t row = size_t{head} * tokens;
        ASSERT_EQ(std::memcmp(scores.data() + row, plain.data() + row, tokens * sizeof(float)), 0)
            << kernel.name << " head " << head;
      }
    }
  }
}

TEST(KeyScores, QueriesThatAreNotFiniteOrAreNothing) {
  std::mt19937_64 random(TestSeed());
  for (const BlockSelectionKernel& kernel : block_selection::All()) {
    if ((kernel.required_isa & ~cpu_kernels::SupportedIsa()) != 0) continue;
    Codes codes(2, 64, 1, 4, random);
    codes.q()[3] = std::numeric_limits<float>::quiet_NaN();
    codes.q()[64 + 5] = -std::numeric_limits<float>::infinity();
    for (uint32_t d = 0; d < 64; ++d) codes.q()[2 * 64 + d] = 0;
    const std::vector<float> scores = codes.Score(kernel);
    for (uint32_t token = 0; token < 64; ++token) {
      ASSERT_TRUE(std::isnan(scores[token])) << kernel.name;
      ASSERT_TRUE(std::isnan(scores[64 + token])) << kernel.name;
      ASSERT_EQ(scores[2 * 64 + token], 0) << kernel.name;
      ASSERT_TRUE(std::isfinite(scores[3 * 64 + token])) << kernel.name;
    }
  }
}

TEST(KeyScores, RefusesWhatCannotBe) {
  std::mt19937_64 random(TestSeed());
  const Codes codes(2, 64, 2, 2, random);
  std::vector<float> scores(2 * 128);
  const auto message = [&](auto change) {
    ScoreKeysArgs args = codes.args();
    args.scores = scores.data();
    change(args);
    return std::string(block_selection::Validate(args).message());
  };
  EXPECT_EQ(message([](ScoreKeysArgs&) {}), "");
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.layout.bits = 3; }), HasSubstr("3 bits"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.layout.record_bytes = 64; }), HasSubstr("record_bytes is 64"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.group_size = 0; }), HasSubstr("group_size is 0"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.num_tokens = 100; }), HasSubstr("num_tokens is 100"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.score_stride = 100; }), HasSubstr("score_stride 100"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.scores = nullptr; }), HasSubstr("null"));
}

}  // namespace
}  // namespace tributary
