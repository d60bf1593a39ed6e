#include "attention/policy/head_tasks.h"

#include <algorithm>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

std::vector<uint32_t> Assign(HeadTaskBalancer& balancer, const std::vector<uint64_t>& bytes,
                             uint32_t num_tasks) {
  std::vector<uint32_t> tasks(bytes.size(), 999);
  balancer.Assign(bytes, num_tasks, tasks);
  return tasks;
}

uint64_t BestMaximum(const std::vector<uint64_t>& bytes, uint32_t num_tasks) {
  uint64_t best = ~uint64_t{0};
  std::vector<uint32_t> choice(bytes.size(), 0);
  while (true) {
    std::vector<uint64_t> load(num_tasks, 0);
    for (size_t i = 0; i < bytes.size(); ++i) load[choice[i]] += bytes[i];
    best = std::min(best, *std::max_element(load.begin(), load.end()));
    size_t digit = 0;
    while (digit < choice.size() && ++choice[digit] == num_tasks) choice[digit++] = 0;
    if (digit == choice.size()) return best;
  }
}

TEST(HeadTasksTest, BalancesBytesNotHeads) {
  HeadTaskBalancer balancer;
  EXPECT_THAT(Assign(balancer, {10, 90, 20, 30, 30}, 2), ElementsAre(1, 0, 1, 1, 1));
  EXPECT_THAT(balancer.task_bytes(), ElementsAre(90, 90));
}

TEST(HeadTasksTest, TiesAreSettled) {
  HeadTaskBalancer balancer;
  EXPECT_THAT(Assign(balancer, {5, 5, 5, 5}, 3), ElementsAre(0, 1, 2, 0));
  EXPECT_THAT(Assign(balancer, {0, 0}, 2), Each(0u));
  EXPECT_THAT(Assign(balancer, {7}, 4), ElementsAre(0));
  EXPECT_THAT(Assign(balancer, {}, 4), ElementsAre());
}

TEST(HeadTasksTest, NeverFarFromTheBest) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  HeadTaskBalancer balancer;
  for (int round = 0; round < 100; ++round) {
    std::vector<uint64_t> bytes(RandomInt<size_t>(random, 1, 7));
    for (uint64_t& b : bytes) b = uint64_t{1} << RandomInt(random, 0, 6);
    const auto num_tasks = RandomInt<uint32_t>(random, 1, 4);
    const std::vector<uint32_t> tasks = Assign(balancer, bytes, num_tasks);
    std::vector<uint64_t> load(num_tasks, 0);
    for (size_t i = 0; i < bytes.size(); ++i) load.at(tasks[i]) += bytes[i];
    EXPECT_THAT(balancer.task_bytes(), ::testing::ElementsAreArray(load));
    const uint64_t most = *std::max_element(load.begin(), load.end());
    EXPECT_LE(3 * most, 4 * BestMaximum(bytes, num_tasks));
    EXPECT_EQ(Assign(balancer, bytes, num_tasks), tasks);
  }
}

}  // namespace
}  // namespace tributary
