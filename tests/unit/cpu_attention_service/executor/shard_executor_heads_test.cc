// KV heads that read different things: the shard, rows of a cache, or nothing.
#include <gtest/gtest.h>

#include <cstring>

#include "cpu_attention_service/executor/shard_executor.h"
#include "kv_store/row_cache.h"
#include "tests/unit/cpu_attention_service/node/test_shard.h"

namespace tributary {
namespace {

using testing::LayerKv;
using testing::MakeSpec;
using testing::RandomFloats;
using testing::RandomLayerKv;
using testing::RowsOf;
using testing::TestPool;
using testing::TestSeed;

constexpr float kScale = 0.125f;
constexpr uint32_t kLayer = 1, kTokens = 900;
constexpr AttentionShape kShape{8, 4, 64};

struct Answer {
  std::vector<float> out, lse_ln;
  std::vector<std::vector<float>> weights;  // [KV head]

  friend bool operator==(const Answer& a, const Answer& b) {
    const auto same = [](const std::vector<float>& x, const std::vector<float>& y) {
      return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(float)) == 0);
    };
    for (size_t i = 0; i < a.weights.size(); ++i) {
      if (!same(a.weights[i], b.weights[i])) return false;
    }
    return same(a.out, b.out) && same(a.lse_ln, b.lse_ln);
  }
};

class ShardExecutorHeadsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const ShardSpec spec = MakeSpec(1, kShape, kTokens);
    shard_ = *KvShard::Open(spec, pool_.get());
    const LayerKv kv = RandomLayerKv(spec, kTokens, random_);
    ASSERT_TRUE(shard_->Store(kLayer, 0, kTokens, RowsOf(spec, kv)).ok());
    cache_ = *RowCache::Open(spec, {.capacity_rows = kTokens / 2}, pool_.get());
    for (uint32_t head = 0; head < kShape.num_kv_heads; ++head) {
      std::vector<uint32_t> tokens;
      for (uint32_t t = 0; t < kTokens; ++t) {
        if (random_() % 8 == 0) tokens.push_back(t);
      }
      cache_->Append(*shard_, kLayer, head, tokens);
    }
    q_ = RandomFloats(size_t{kNumQueries} * kShape.num_q_heads * kShape.head_dim, random_);
  }

  // Head 0 reads the shard, 1 its cache, 2 nothing, 3 no row of its cache.
  std::vector<HeadRead> MixedHeads(TokenRange local) const {
    return {{.tokens = local}, {.rows = {0, cache_->num_rows(kLayer, 1)}}, {.is_untouched = true}, {.rows = {5, 5}}};
  }

  Answer Run(const ShardExecutorOptions& options, std::vector<HeadRead> heads, TokenRange local, uint32_t n_q,
             bool with_weights, float soft_cap = 0) {
    Answer answer;
    const size_t rows = size_t{n_q} * kShape.num_q_heads;
    answer.out.assign(rows * kShape.head_dim, 77.0f);
    answer.lse_ln.assign(rows, 77.0f);
    answer.weights.resize(kShape.num_kv_heads);
    for (size_t head = 0; with_weights && head < heads.size(); ++head) {
      answer.weights[head].assign(heads[head].NumTokens(), 0.0f);
      heads[head].weights = answer.weights[head];
    }
    ShardQuery query;
    query.shard = shard_.get();
    query.layer = kLayer;
    query.local = local;
    query.n_q = n_q;
    query.q = std::as_bytes(std::span(q_)).first(rows * kShape.head_dim * sizeof(float));
    query.partial = {answer.out, answer.lse_ln};
    query.heads = heads;
    query.cache = cache_.get();
    ShardExecutor executor(options);
    const ShardQuery queries[] = {query};
    executor.Execute(queries, kScale, soft_cap);
    if (with_weights) executor.AddWeights(queries, kScale, soft_cap);
    return answer;
  }

  static ShardExecutorOptions Threads(int num_threads, uint32_t max_items = 8192) {
    ShardExecutorOptions options;
    options.num_threads = num_threads;
    options.min_parallel_bytes = 0;
    options.max_items_per_wave = max_items;
    return options;
  }

  static constexpr uint32_t kNumQueries = 11;
  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
  TestPool pool_{16u << 20, 16 << 10};
  std::unique_ptr<KvShard> shard_;
  std::unique_ptr<RowCache> cache_;
  std::vector<float> q_;
};

// The weights of all tokens add up, to what they do without a cap: 1 for each query, as a mean over a group's heads.
TEST_F(ShardExecutorHeadsTest, WeightsOfCappedScoresAddUp) {
  const TokenRange local{0, 300};
  for (const float soft_cap : {0.0f, 1.25f}) {
    const std::vector<HeadRead> heads(kShape.num_kv_heads, {.tokens = local});
    const Answer answer = Run(Threads(2), heads, local, 1, true, soft_cap);
    for (const std::vector<float>& weights : answer.weights) {
      double sum = 0;
      for (const float weight : weights) sum += double{weight};
      EXPECT_NEAR(sum, 1, 1e-3) << soft_cap;
    }
  }
}

TEST_F(ShardExecutorHeadsTest, EachHeadGetsWhatItReads) {
  const Answer mixed = Run(Threads(2), MixedHeads({3, 850}), {3, 850}, 1, false);
  const Answer dense = Run(Threads(1), {}, {3, 850}, 1, false);
  const uint32_t group = kShape.group_size(), dim = kShape.head_dim;
  for (uint32_t i = 0; i < group * dim; ++i) EXPECT_EQ(mixed.out[i], dense.out[i]);
  for (uint32_t h = 0; h < group; ++h) {
    EXPECT_EQ(mixed.lse_ln[h], dense.lse_ln[h]);
    EXPECT_LT(mixed.lse_ln[group + h], dense.lse_ln[group + h]) << "a part of it";
    EXPECT_EQ(mixed.lse_ln[2 * group + h], 77.0f) << "not touched";
    EXPECT_EQ(mixed.lse_ln[3 * group + h], kEmptyLse);
  }
  EXPECT_EQ(mixed.out[2 * group * dim], 77.0f);
  EXPECT_EQ(mixed.out[3 * group * dim], 0.0f);
}

TEST_F(ShardExecutorHeadsTest, SameBitsOnAnyThreadsAndInAnyWaves) {
  const Answer expected = Run(Threads(1), MixedHeads({0, kTokens}), {0, kTokens}, kNumQueries, true);
  for (const int threads : {1, 2, 3, 5}) {
    for (const uint32_t max_items : {1u, 3u, 8192u}) {
      EXPECT_EQ(Run(Threads(threads, max_items), MixedHeads({0, kTokens}), {0, kTokens}, kNumQueries, true), expected)
          << threads << " threads, waves of " << max_items;
    }
  }
}

// Weights of a head sum to 1 per query token, whichever part of the shard it read.
TEST_F(ShardExecutorHeadsTest, WeightsAreADistributionOverWhatWasRead) {
  const Answer answer = Run(Threads(2), MixedHeads({7, 800}), {7, 800}, kNumQueries, true);
  for (const uint32_t head : {0u, 1u}) {
    double sum = 0;
    for (const float weight : answer.weights[head]) {
      EXPECT_GE(weight, 0.0f);
      sum += weight;
    }
    EXPECT_NEAR(sum, kNumQueries, 1e-3);
  }
  EXPECT_TRUE(answer.weights[3].empty());
}

}  // namespace
}  // namespace tributary
