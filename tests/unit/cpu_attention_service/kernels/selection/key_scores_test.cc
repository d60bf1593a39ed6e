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

constexpr uint32_t kFirstId = 640;

struct Found {
  explicit Found(size_t room) : ids(room, 77), scores(room, 77.0f) {}
  std::vector<uint32_t> ids;
  std::vector<float> scores;
};

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
    return args;
  }
  // What every head finds that looks at each record_step-th record for scores of `least` and more.
  std::vector<Found> Find(const BlockSelectionKernel& kernel, float least, uint32_t record_step = 1) const {
    ScoreKeysArgs args = this->args();
    std::vector<Found> found(group_size_, Found(num_tokens_ + kSelectSlack));
    std::vector<FoundKeys> to;
    for (Found& of_head : found) to.push_back({of_head.ids.data(), of_head.scores.data(), 0});
    const std::vector<float> thresholds(group_size_, least);
    args.least = thresholds.data();
    args.found = to.data();
    args.first_id = kFirstId;
    args.record_step = record_step;
    EXPECT_TRUE(block_selection::Validate(args).ok());
    kernel.fns.score_keys(args);
    for (size_t head = 0; head < found.size(); ++head) {
      found[head].ids.resize(to[head].count);
      found[head].scores.resize(to[head].count);
    }
    return found;
  }
  // Of every token.
  std::vector<float> Score(const BlockSelectionKernel& kernel) const {
    std::vector<float> scores;
    for (const Found& of_head : Find(kernel, -std::numeric_limits<float>::infinity())) {
      EXPECT_EQ(of_head.ids.size(), num_tokens_);
      scores.insert(scores.end(), of_head.scores.begin(), of_head.scores.end());
    }
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

// The tokens that a filter over all scores leaves, by every variant, of all records and of a sample.
TEST(KeyScores, AThresholdLeavesThoseThatReachIt) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 20; ++round) {
    const uint32_t head_dim = std::array{64u, 80u, 128u}[RandomInt(random, 0, 2)];
    const uint32_t records = RandomInt(random, 1u, 9u), tokens = 64 * records, group = RandomInt(random, 1u, 20u);
    Codes codes(std::array{1u, 2u, 4u}[RandomInt(random, 0, 2)], head_dim, records, group, random);
    const std::vector<float> all = codes.Score(*block_selection::Find("scalar").value());
    const float least = all[RandomInt<size_t>(random, 0, all.size() - 1)];  // which one token equals
    const uint32_t step = RandomInt(random, 1u, 4u);
    SCOPED_TRACE(::testing::Message() << "head_dim " << head_dim << ", records " << records << " by " << step
                                      << ", group " << group << ", least " << least);
    for (const BlockSelectionKernel& kernel : block_selection::All()) {
      if ((kernel.required_isa & ~cpu_kernels::SupportedIsa()) != 0) continue;
      const std::vector<Found> found = codes.Find(kernel, least, step);
      for (uint32_t head = 0; head < group; ++head) {
        std::vector<uint32_t> ids;
        std::vector<float> scores;
        for (uint32_t token = 0; token < tokens; ++token) {
          if (token / 64 % step != 0 || all[size_t{head} * tokens + token] < least) continue;
          ids.push_back(kFirstId + token);
          scores.push_back(all[size_t{head} * tokens + token]);
        }
        ASSERT_EQ(found[head].ids, ids) << kernel.name << " head " << head;
        ASSERT_EQ(found[head].scores, scores) << kernel.name << " head " << head;
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
  std::vector<Found> found(2, Found(128 + kSelectSlack));
  std::vector<FoundKeys> to;
  for (Found& of_head : found) to.push_back({of_head.ids.data(), of_head.scores.data(), 0});
  const std::vector<float> least(2);
  const auto message = [&](auto change) {
    ScoreKeysArgs args = codes.args();
    args.least = least.data();
    args.found = to.data();
    change(args);
    return std::string(block_selection::Validate(args).message());
  };
  EXPECT_EQ(message([](ScoreKeysArgs&) {}), "");
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.layout.bits = 3; }), HasSubstr("3 bits"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.layout.record_bytes = 64; }), HasSubstr("record_bytes is 64"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.group_size = 0; }), HasSubstr("group_size is 0"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.num_tokens = 100; }), HasSubstr("num_tokens is 100"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.record_step = 0; }), HasSubstr("record_step is 0"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.least = nullptr; }), HasSubstr("null"));
  EXPECT_THAT(message([](ScoreKeysArgs& args) { args.found = nullptr; }), HasSubstr("what head 0 finds"));
  to[1].ids = nullptr;
  EXPECT_THAT(message([](ScoreKeysArgs&) {}), HasSubstr("what head 1 finds"));
}

}  // namespace
}  // namespace tributary
