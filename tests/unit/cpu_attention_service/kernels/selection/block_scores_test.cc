// Scores of block summaries: against f64, and bit for bit between the variants.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/aligned_buffer.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "cpu_attention_service/kernels/selection/block_selection.h"
#include "kv_store/block_pool.h"
#include "kv_store/block_summaries.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

struct Case {
  SummaryKind kind;
  SummaryStorage storage;
  uint32_t head_dim;
  uint32_t group_size;
  uint32_t block_tokens;
  uint32_t num_tokens;
};

class Stream {
 public:
  Stream(const Case& c, std::mt19937_64& random) : case_(c) {
    std::normal_distribution<float> normal;
    keys_.resize(size_t{c.num_tokens} * c.head_dim);
    std::vector<float> channel(c.head_dim);  // some channels are much larger, as in real keys
    for (float& factor : channel) factor = RandomInt(random, 0, 15) == 0 ? 8.0f : 1.0f;
    for (size_t i = 0; i < keys_.size(); ++i) keys_[i] = normal(random) * channel[i % c.head_dim];
    q_.resize(size_t{c.group_size} * c.head_dim);
    for (float& value : q_) value = normal(random);
    auto summaries =
        BlockSummaries::Open({c.kind, c.storage, c.block_tokens}, {c.head_dim, 1, std::max(c.num_tokens, 1u)}, &pool_);
    summaries_ = std::make_unique<BlockSummaries>(*std::move(summaries));
    summaries_->Append(0, keys_.data(), c.head_dim, c.num_tokens);
  }

  uint32_t num_blocks() const { return summaries_->num_blocks(0); }
  std::vector<float>& q() { return q_; }

  struct Scores {
    std::vector<float> all;  // [group][num_blocks]
    std::vector<float> group_max;
  };
  Scores Score(const BlockSelectionKernel& kernel) const {
    Scores scores{std::vector<float>(size_t{case_.group_size} * num_blocks(), 77.0f),
                  std::vector<float>(num_blocks(), 77.0f)};
    ScoreBlocksArgs args;
    args.layout = summaries_->layout();
    args.q = q_.data();
    args.group_size = case_.group_size;
    args.softmax_scale = 0.125f;
    args.score_stride = num_blocks();
    for (uint32_t block = 0; block < num_blocks(); block += args.num_blocks) {
      const BlockSummaries::Run run = summaries_->RunAt(0, block, num_blocks());
      args.records = run.records;
      args.num_blocks = run.num_blocks;
      args.scores = scores.all.data() + block;
      args.group_max = scores.group_max.data() + block;
      EXPECT_TRUE(block_selection::Validate(args).ok());
      kernel.fns.score_blocks(args);
    }
    return scores;
  }

  // The score by its definition, and what rounding may change of it: half a step of each code of int8 (a whole step of
  // bounds, which are rounded outwards), or of bf16.
  double Expected(uint32_t head, uint32_t block, double* tolerance) const {
    const float* q = q_.data() + size_t{head} * case_.head_dim;
    const uint32_t begin = block * case_.block_tokens;
    const uint32_t end = std::min(begin + case_.block_tokens, case_.num_tokens);
    double score = 0;
    double sum_q = 0;
    double sum_rows = 0;
    double largest_q = 0;
    double largest_row = 0;
    for (uint32_t d = 0; d < case_.head_dim; ++d) {
      double mean = 0;
      double high = -1e30;
      double low = 1e30;
      for (uint32_t t = begin; t < end; ++t) {
        const double key = keys_[size_t{t} * case_.head_dim + d];
        mean += key / (end - begin);
        high = std::max(high, key);
        low = std::min(low, key);
      }
      const double row = case_.kind == SummaryKind::kMean ? mean : q[d] > 0 ? high : low;
      score += row * q[d];
      sum_q += std::abs(q[d]);
      sum_rows += std::abs(row);
      largest_q = std::max(largest_q, double{std::abs(q[d])});
      largest_row = std::max({largest_row, case_.kind == SummaryKind::kMean ? std::abs(mean) : std::abs(high),
                              case_.kind == SummaryKind::kMean ? 0 : std::abs(low)});
    }
    *tolerance = case_.storage == SummaryStorage::kInt8 ? 0.125 * (sum_q * largest_row + sum_rows * largest_q) / 127
                                                        : 0.125 * sum_q * largest_row / 128;
    return 0.125 * score;
  }

 private:
  const Case case_;
  std::vector<float> keys_;
  std::vector<float> q_;
  AlignedBuffer<std::byte> memory_{4 << 20};
  BlockPool pool_{memory_.span(), 128 << 10};
  std::unique_ptr<BlockSummaries> summaries_;
};

Case RandomCase(std::mt19937_64& random) {
  Case c;
  c.kind = RandomInt(random, 0, 1) != 0 ? SummaryKind::kMean : SummaryKind::kMinMax;
  c.storage = RandomInt(random, 0, 1) != 0 ? SummaryStorage::kInt8 : SummaryStorage::kBf16;
  c.head_dim = std::array{64u, 72u, 80u, 112u, 128u, 256u}[RandomInt(random, 0, 5)];
  c.group_size = RandomInt(random, 1, RandomInt(random, 0, 4) == 0 ? 40 : 8);
  c.block_tokens = 16u << RandomInt(random, 0, 3);
  c.num_tokens = RandomInt(random, 1u, 70 * c.block_tokens);
  return c;
}

TEST(BlockScores, AreThoseOfTheDefinitionInEveryVariant) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 25; ++round) {
    const Case c = RandomCase(random);
    Stream stream(c, random);
    SCOPED_TRACE(::testing::Message() << "kind " << static_cast<int>(c.kind) << " storage "
                                      << static_cast<int>(c.storage) << " head_dim " << c.head_dim << " group "
                                      << c.group_size << " block " << c.block_tokens << " tokens " << c.num_tokens);
    const auto plain = stream.Score(*block_selection::Find("scalar").value());
    for (uint32_t head = 0; head < c.group_size; head += 3) {
      for (uint32_t block = 0; block < stream.num_blocks(); block += 7) {
        double tolerance = 0;
        const double expected = stream.Expected(head, block, &tolerance);
        ASSERT_NEAR(plain.all[size_t{head} * stream.num_blocks() + block], expected, tolerance);
      }
    }
    for (uint32_t block = 0; block < stream.num_blocks(); ++block) {
      float largest = -INFINITY;
      for (uint32_t head = 0; head < c.group_size; ++head) {
        largest = std::max(largest, plain.all[size_t{head} * stream.num_blocks() + block]);
      }
      ASSERT_EQ(plain.group_max[block], largest);
    }
    for (const BlockSelectionKernel& kernel : block_selection::All()) {
      if ((kernel.required_isa & ~cpu_kernels::SupportedIsa()) != 0) continue;
      const auto scores = stream.Score(kernel);
      ASSERT_EQ(std::memcmp(scores.all.data(), plain.all.data(), plain.all.size() * sizeof(float)), 0) << kernel.name;
      ASSERT_EQ(scores.group_max, plain.group_max) << kernel.name;
    }
  }
}

TEST(BlockScores, ANanInAQueryReachesItsHeadOnlyAndTheGroupsMaximum) {
  std::mt19937_64 random(TestSeed());
  for (SummaryStorage storage : {SummaryStorage::kBf16, SummaryStorage::kInt8}) {
    Stream stream({SummaryKind::kMean, storage, 64, 3, 16, 500}, random);
    stream.q()[64 + 5] = NAN;
    for (const BlockSelectionKernel& kernel : block_selection::All()) {
      if ((kernel.required_isa & ~cpu_kernels::SupportedIsa()) != 0) continue;
      const auto scores = stream.Score(kernel);
      for (size_t i = 0; i < scores.all.size(); ++i) {
        ASSERT_EQ(std::isnan(scores.all[i]), i / stream.num_blocks() == 1) << kernel.name;
      }
      for (float score : scores.group_max) ASSERT_TRUE(std::isnan(score)) << kernel.name;
    }
  }
}

TEST(BlockScores, BadArgumentsAreRefused) {
  alignas(64) float memory[64] = {};
  ScoreBlocksArgs args;
  args.layout = MakeBlockSummaryLayout(SummaryKind::kMean, SummaryStorage::kInt8, 64);
  args.records = memory;
  args.q = memory;
  args.scores = memory;
  args.num_blocks = 3;
  args.group_size = 1;
  args.score_stride = 3;
  EXPECT_TRUE(block_selection::Validate(args).ok());
  ScoreBlocksArgs bad = args;
  bad.score_stride = 2;
  EXPECT_THAT(std::string(block_selection::Validate(bad).message()), HasSubstr("score_stride 2"));
  bad = args;
  bad.records = memory + 1;
  EXPECT_THAT(std::string(block_selection::Validate(bad).message()), HasSubstr("64 bytes"));
  bad = args;
  bad.group_size = 0;
  EXPECT_EQ(block_selection::Validate(bad).code(), absl::StatusCode::kInvalidArgument);
  bad = args;
  bad.layout.head_dim = 300;
  EXPECT_THAT(std::string(block_selection::Validate(bad).message()), HasSubstr("300"));
}

}  // namespace
}  // namespace tributary
