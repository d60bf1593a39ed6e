#include "cpu_attention_service/executor/shard_executor.h"

#include <gtest/gtest.h>

#include <cstring>

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

// One query and room for its answer.
struct Job {
  const KvShard* shard;
  const LayerKv* kv;
  TokenRange local;
  uint32_t n_q;
  std::vector<float> q;
  std::vector<float> out;
  std::vector<float> lse_ln;
};

class ShardExecutorTest : public ::testing::Test {
 protected:
  void AddShard(AttentionShape shape, uint32_t num_tokens, DType dtype = DType::kBf16) {
    const ShardSpec spec = MakeSpec(shards_.size(), shape, num_tokens, dtype);
    auto shard = KvShard::Open(spec, pool_.get());
    ASSERT_TRUE(shard.ok()) << shard.status();
    kv_.push_back(std::make_unique<LayerKv>(RandomLayerKv(spec, num_tokens, random_)));
    ASSERT_TRUE((*shard)->Store(1, 0, num_tokens, RowsOf(spec, *kv_.back())).ok());
    shards_.push_back(*std::move(shard));
  }

  Job MakeJob(size_t shard_idx, TokenRange local, uint32_t n_q = 1) {
    const ShardSpec& spec = shards_[shard_idx]->spec();
    const size_t rows = size_t{n_q} * spec.num_q_heads_held();
    Job job{shards_[shard_idx].get(), kv_[shard_idx].get(), local, n_q, {}, {}, {}};
    job.q = RandomFloats(rows * spec.model.head_dim, random_);
    job.out.assign(rows * spec.model.head_dim, 77.0f);
    job.lse_ln.assign(rows, 77.0f);
    return job;
  }

  // A bit of everything: several shapes, ranges that start and end inside runs, many query tokens,
  // an empty range.
  std::vector<Job> MixedJobs() {
    AddShard({8, 2, 64}, 700);
    AddShard({6, 3, 128}, 333, DType::kF32);
    AddShard({4, 4, 80}, 97, DType::kF16);
    std::vector<Job> jobs;
    jobs.push_back(MakeJob(0, {0, 700}));
    jobs.push_back(MakeJob(1, {5, 200}, 3));
    jobs.push_back(MakeJob(2, {0, 0}));
    jobs.push_back(MakeJob(2, {96, 97}));
    jobs.push_back(MakeJob(0, {31, 698}, 19));
    jobs.push_back(MakeJob(1, {0, 333}));
    return jobs;
  }

  static void Execute(ShardExecutor& executor, std::vector<Job*> jobs, float soft_cap = 0) {
    // q may lie at any address in a received frame: shift it by one byte.
    std::vector<std::vector<std::byte>> frames;
    std::vector<ShardQuery> queries;
    for (Job* job : jobs) {
      frames.emplace_back(job->q.size() * sizeof(float) + 1);
      std::memcpy(frames.back().data() + 1, job->q.data(), job->q.size() * sizeof(float));
      queries.push_back({job->shard,
                         1,
                         job->local,
                         job->n_q,
                         std::span<const std::byte>(frames.back()).subspan(1),
                         {job->out, job->lse_ln}});
    }
    executor.Execute(queries, kScale, soft_cap);
  }

  void ExpectReference(float soft_cap);

  static std::vector<Job*> Pointers(std::vector<Job>& jobs) {
    std::vector<Job*> pointers;
    for (Job& job : jobs) pointers.push_back(&job);
    return pointers;
  }

  static void ExpectSameBits(const Job& a, const Job& b) {
    EXPECT_EQ(std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(float)), 0);
    EXPECT_EQ(std::memcmp(a.lse_ln.data(), b.lse_ln.data(), a.lse_ln.size() * sizeof(float)), 0);
  }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
  TestPool pool_{8u << 20};
  std::vector<std::unique_ptr<KvShard>> shards_;
  std::vector<std::unique_ptr<LayerKv>> kv_;
};

ShardExecutorOptions Threads(int num_threads) {
  ShardExecutorOptions options;
  options.num_threads = num_threads;
  options.min_parallel_bytes = 0;
  return options;
}

void ShardExecutorTest::ExpectReference(float soft_cap) {
  std::vector<Job> jobs = MixedJobs();
  ShardExecutor executor(Threads(2));
  Execute(executor, Pointers(jobs), soft_cap);
  for (const Job& job : jobs) {
    const ShardSpec& spec = job.shard->spec();
    const size_t heads = spec.num_q_heads_held();
    const size_t q_floats = heads * spec.model.head_dim;
    for (uint32_t i = 0; i < job.n_q; ++i) {
      const ReferencePartial expected = testing::Reference(
          spec, *job.kv, std::span(job.q).subspan(i * q_floats, q_floats), job.local, kScale, soft_cap);
      for (size_t h = 0; h < heads; ++h) {
        if (job.local.empty()) {
          EXPECT_EQ(job.lse_ln[i * heads + h], kEmptyLse);
        } else {
          EXPECT_NEAR(job.lse_ln[i * heads + h], expected.lse_ln[h], 1e-5);
        }
      }
      for (size_t d = 0; d < q_floats; ++d) {
        ASSERT_NEAR(job.out[i * q_floats + d], expected.out[d], testing::OutTolerance(spec));
      }
    }
  }
}

TEST_F(ShardExecutorTest, AgreesWithTheReference) { ExpectReference(0); }

// Scores have a deviation of 1.
TEST_F(ShardExecutorTest, CappedScoresAgreeWithTheReference) { ExpectReference(1.25f); }

TEST_F(ShardExecutorTest, SameBitsOnAnyNumberOfThreads) {
  std::vector<Job> jobs = MixedJobs();
  std::vector<Job> expected = jobs;
  ShardExecutor one(Threads(1));
  Execute(one, Pointers(expected));
  for (int threads : {2, 3, 5}) {
    ShardExecutor executor(Threads(threads));
    for (int repeat = 0; repeat < 10; ++repeat) {
      std::vector<Job> again = jobs;
      Execute(executor, Pointers(again));
      for (size_t i = 0; i < jobs.size(); ++i) ExpectSameBits(again[i], expected[i]);
    }
  }
}

TEST_F(ShardExecutorTest, SameBitsAloneOrInABatch) {
  std::vector<Job> jobs = MixedJobs();
  std::vector<Job> alone = jobs;
  ShardExecutor executor(Threads(2));
  Execute(executor, Pointers(jobs));
  for (size_t i = jobs.size(); i-- > 0;) {
    Execute(executor, {&alone[i]});
    ExpectSameBits(alone[i], jobs[i]);
  }
}

TEST_F(ShardExecutorTest, SameBitsInManySmallWaves) {
  std::vector<Job> jobs = MixedJobs();
  std::vector<Job> expected = jobs;
  ShardExecutor whole(Threads(1));
  Execute(whole, Pointers(expected));
  for (uint32_t max_items : {1u, 2u, 7u, 50u}) {
    ShardExecutorOptions options = Threads(3);
    options.max_items_per_wave = max_items;
    ShardExecutor executor(options);
    std::vector<Job> again = jobs;
    Execute(executor, Pointers(again));
    for (size_t i = 0; i < jobs.size(); ++i) ExpectSameBits(again[i], expected[i]);
  }
  ShardExecutorOptions options = Threads(2);
  options.scratch_floats = ShardExecutor::kMinScratchFloats;
  ShardExecutor executor(options);
  std::vector<Job> again = jobs;
  Execute(executor, Pointers(again));
  for (size_t i = 0; i < jobs.size(); ++i) ExpectSameBits(again[i], expected[i]);
}

// Speculative tokens: each sees up to its own position, some nothing of an item or at all.
TEST_F(ShardExecutorTest, QueryTokensSeeUpToTheirOwnEnd) {
  AddShard({8, 2, 64}, 700, DType::kF32);
  const uint32_t n_q = 11;
  Job job = MakeJob(0, {3, 700}, n_q);
  std::vector<uint64_t> visible_end = {0, 3, 4, 64, 65, 255, 256, 257, 699, 700, 5000};
  for (int threads : {1, 3}) {
    ShardExecutor executor(Threads(threads));
    const ShardQuery query{job.shard,  1, job.local, n_q, std::as_bytes(std::span(job.q)), {job.out, job.lse_ln},
                           visible_end};
    executor.Execute({&query, 1}, kScale);
    const size_t q_floats = 8 * 64;
    for (uint32_t i = 0; i < n_q; ++i) {
      const TokenRange rows{3, std::clamp<uint64_t>(visible_end[i], 3, 700)};
      const ReferencePartial expected = testing::Reference(
          job.shard->spec(), *job.kv, std::span(job.q).subspan(i * q_floats, q_floats), rows, kScale);
      for (size_t h = 0; h < 8; ++h) {
        if (rows.empty()) {
          EXPECT_EQ(job.lse_ln[i * 8 + h], kEmptyLse) << i;
        } else {
          EXPECT_NEAR(job.lse_ln[i * 8 + h], expected.lse_ln[h], 1e-5) << i;
        }
      }
      for (size_t d = 0; d < q_floats; ++d) {
        ASSERT_NEAR(job.out[i * q_floats + d], expected.out[d], 1e-5) << i;
      }
    }
  }
}

TEST_F(ShardExecutorTest, CallsBetweenItems) {
  AddShard({8, 2, 64}, 3000);
  ShardExecutorOptions options = Threads(1);
  int calls = 0;
  options.between_items = [&] { ++calls; };
  options.between_items_bytes = 100'000;  // two extents of 64 KiB
  ShardExecutor executor(options);
  Job job = MakeJob(0, {0, 3000});
  Execute(executor, {&job});
  EXPECT_EQ(calls, 12);  // 2 heads x 12 extents
}

TEST(ItemRangeTest, EveryItemIsTakenOnce) {
  constexpr uint32_t kItems = 20'000;
  ItemRange range;
  std::vector<std::atomic<int>> taken(kItems);
  ThreadPool pool(4);
  for (int round = 1; round <= 5; ++round) {
    range.Set(0, kItems);
    pool.Run([&](int thread_idx) {
      for (uint32_t item; thread_idx % 2 == 0 ? range.TakeFirst(&item) : range.TakeLast(&item);) {
        taken[item].fetch_add(1, std::memory_order_relaxed);
      }
    });
    EXPECT_EQ(range.size(), 0u);
    for (const std::atomic<int>& count : taken) ASSERT_EQ(count.load(), round);
  }
}

TEST_F(ShardExecutorTest, NanStaysWithItsHead) {
  AddShard({4, 2, 64}, 300, DType::kF32);
  const ShardSpec spec = MakeSpec(9, {4, 2, 64}, 300, DType::kF32);
  auto shard = KvShard::Open(spec, pool_.get());
  ASSERT_TRUE(shard.ok());
  LayerKv kv = *kv_[0];
  const float nan = std::nanf("");
  std::memcpy(kv.k.data() + (200 * 2 + 1) * 64 * sizeof(float), &nan,
              sizeof(nan));  // token 200, KV head 1
  ASSERT_TRUE((*shard)->Store(1, 0, 300, RowsOf(spec, kv)).ok());
  Job good = MakeJob(0, {0, 300});
  Job bad = good;
  bad.shard = shard->get();
  ShardExecutor executor(Threads(2));
  Execute(executor, {&good, &bad});
  for (size_t i = 0; i < bad.out.size(); ++i) {
    EXPECT_FALSE(std::isnan(good.out[i]));
    EXPECT_EQ(std::isnan(bad.out[i]), i >= 2 * 64) << i;
  }
  EXPECT_EQ(bad.lse_ln[0], good.lse_ln[0]);
  EXPECT_TRUE(std::isnan(bad.lse_ln[3]));
}

}  // namespace
}  // namespace tributary
