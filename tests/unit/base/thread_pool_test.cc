#include "base/thread_pool.h"

#include <atomic>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(ThreadPoolTest, EachThreadRunsOnceAndRunWaitsForAll) {
  for (int num_threads : {1, 2, 5}) {
    ThreadPool pool(num_threads);
    EXPECT_EQ(pool.num_threads(), num_threads);
    std::vector<int> runs(static_cast<size_t>(num_threads));  // not atomic: Run() orders it
    for (int round = 1; round <= 200; ++round) {
      pool.Run([&](int thread_idx) { ++runs[static_cast<size_t>(thread_idx)]; });
      for (int count : runs) ASSERT_EQ(count, round);
    }
  }
}

TEST(ThreadPoolTest, ParallelForCoversEachIndexOnce) {
  ThreadPool pool(3);
  for (size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{1000}}) {
    std::vector<int> visits(count);
    pool.ParallelFor(count, [&](size_t i) { ++visits[i]; });
    for (int visit : visits) EXPECT_EQ(visit, 1);
  }
}

// No spinning: every run has to wake sleeping threads.
TEST(ThreadPoolTest, SleepingThreadsWake) {
  ThreadPool pool(3, {}, /*spin_ns=*/0);
  std::atomic<int> total{0};
  for (int round = 0; round < 100; ++round) pool.Run([&](int) { total.fetch_add(1); });
  EXPECT_EQ(total.load(), 300);
}

// Helpers sleep, wake late, join this run or the next, each at most once a run, and never one that is over.
TEST(ThreadPoolTest, HelpersComeInTimeOrNotAtAll) {
  for (int64_t spin_ns : {0, 20'000}) {
    ThreadPool pool(4, {}, spin_ns);
    for (int round = 0; round < 2000; ++round) {
      std::atomic<int> next{0};
      std::vector<int> done(50);  // not atomic: the pool orders it
      std::vector<int> begun(4);
      pool.RunWithHelpers([&](int thread_idx) {
        ++begun[static_cast<size_t>(thread_idx)];
        for (int i; (i = next.fetch_add(1)) < 50;) ++done[static_cast<size_t>(i)];
      });
      ASSERT_EQ(begun[0], 1);
      for (int count : begun) ASSERT_LE(count, 1);
      ASSERT_EQ(done, std::vector<int>(50, 1));
    }
  }
}

TEST(ThreadPoolTest, PinsToAllowedCpus) {
  const std::vector<int> cpus = AllowedCpus();
  ASSERT_FALSE(cpus.empty());
  ThreadPool pool(2, {cpus.back()});
  std::vector<int> allowed;
  pool.Run([&](int thread_idx) {
    if (thread_idx == 1) allowed = AllowedCpus();
  });
  EXPECT_EQ(allowed, std::vector<int>{cpus.back()});
}

}  // namespace
}  // namespace tributary
