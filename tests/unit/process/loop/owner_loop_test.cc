#include "process/loop/owner_loop.h"

#include <atomic>
#include <ctime>
#include <future>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "transport/inproc/inproc_network.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;

class OwnerLoopTest : public ::testing::Test {
 protected:
  static int NoTurn() { return 0; }

  RealClock clock_;
  SleepIdle idle_{&clock_};
};

TEST_F(OwnerLoopTest, RunsItemsInOrderOnOneThread) {
  std::vector<int> seen;
  std::thread::id thread;
  idle_.set_deadline_ns(clock_.NowNs() + 3600 * kNsPerS);
  {
    OwnerLoop<int> loop(
        {.run_rest_at_stop = true}, &idle_,
        [&](int& item) {
          seen.push_back(item);
          thread = std::this_thread::get_id();
        },
        NoTurn);
    ASSERT_TRUE(loop.Post(1));  // before Start(): it waits
    loop.Start();
    for (int i = 2; i <= 5; ++i) ASSERT_TRUE(loop.Post(i));
    loop.Stop();
    EXPECT_FALSE(loop.Post(6));
    loop.PostInstead(7);
    EXPECT_FALSE(loop.has_items());
  }
  EXPECT_THAT(seen, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_NE(thread, std::this_thread::get_id());
}

// An item that holds the loop's thread until it is let go.
class Gate {
 public:
  void Enter() {
    entered_.set_value();
    open_.get_future().wait();
  }
  void WaitUntilEntered() { entered_.get_future().wait(); }
  void Open() { open_.set_value(); }

 private:
  std::promise<void> entered_, open_;
};

TEST_F(OwnerLoopTest, TooManyItemsAreRefusedAndWhatWaitsCanBeReplaced) {
  Gate gate;
  std::vector<int> seen;
  std::promise<void> done;
  idle_.set_deadline_ns(clock_.NowNs() + 3600 * kNsPerS);
  OwnerLoop<int> loop(
      {.max_waiting = 2, .one_item_per_turn = true}, &idle_,
      [&](int& item) {
        if (item == 0) gate.Enter();
        seen.push_back(item);
        if (item == 9) done.set_value();
      },
      NoTurn);
  loop.Start();
  ASSERT_TRUE(loop.Post(0));
  gate.WaitUntilEntered();
  EXPECT_TRUE(loop.has_items());  // the one that runs
  EXPECT_TRUE(loop.Post(1));
  EXPECT_TRUE(loop.Post(2));
  EXPECT_FALSE(loop.Post(3));
  loop.PostInstead(9);
  gate.Open();
  done.get_future().wait();
  loop.Stop();
  EXPECT_THAT(seen, ElementsAre(0, 9));
  EXPECT_FALSE(loop.has_items());
}

TEST_F(OwnerLoopTest, ItemsAndTurnsAlternate) {
  std::vector<char> seen;
  std::promise<void> done;
  idle_.set_deadline_ns(clock_.NowNs() + 3600 * kNsPerS);
  OwnerLoop<char> loop(
      {.one_item_per_turn = true}, &idle_,
      [&](char& item) {
        seen.push_back(item);
        if (item == 'c') done.set_value();
      },
      [&] {
        if (seen.size() < 6) seen.push_back('-');
        return 1;
      });
  for (const char item : {'a', 'b', 'c'}) ASSERT_TRUE(loop.Post(item));
  loop.Start();
  done.get_future().wait();
  loop.Stop();
  EXPECT_THAT(std::vector<char>(seen.begin(), seen.begin() + 5), ElementsAre('a', '-', 'b', '-', 'c'));
}

TEST_F(OwnerLoopTest, WithoutRestWhatWaitsAtTheStopIsDropped) {
  Gate gate;
  std::atomic<int> num_run{0};
  OwnerLoop<int> loop(
      {.one_item_per_turn = true}, &idle_,
      [&](int& item) {
        if (item == 0) gate.Enter();
        ++num_run;
      },
      NoTurn);
  loop.Start();
  ASSERT_TRUE(loop.Post(0));
  gate.WaitUntilEntered();
  ASSERT_TRUE(loop.Post(1));
  std::thread stopper([&] { loop.Stop(); });
  while (loop.Post(2)) std::this_thread::yield();  // until Stop() has begun
  gate.Open();
  stopper.join();
  EXPECT_EQ(num_run, 1);
}

TEST_F(OwnerLoopTest, SleepsUntilItsDeadline) {
  int turns = 0;  // of the loop's thread
  bool done = false;
  std::promise<void> ticked;
  const int64_t tick_ns = clock_.NowNs() + 20 * kNsPerMs;
  idle_.set_deadline_ns(tick_ns);
  OwnerLoop<int> loop(
      {}, &idle_, [](int&) {},
      [&] {
        ++turns;
        if (done || clock_.NowNs() < tick_ns) return 0;
        idle_.set_deadline_ns(clock_.NowNs() + 3600 * kNsPerS);
        done = true;
        ticked.set_value();
        return 0;
      });
  loop.Start();
  ticked.get_future().wait();
  loop.Stop();
  EXPECT_LE(turns, 10);  // the first, the one at the deadline, and what woke it for no reason
}

// Time of this process on a core.
int64_t CpuNs() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return time.tv_sec * kNsPerS + time.tv_nsec;
}

TEST_F(OwnerLoopTest, AnIdleLoopOverADataPlaneSleeps) {
  InprocNetwork network{1, &clock_};
  const std::unique_ptr<DataPlane> plane = network.Create("node");
  DataPlaneIdle idle(plane.get(), &clock_);
  std::promise<void> ran;
  OwnerLoop<int> loop(
      {}, &idle, [&](int&) { ran.set_value(); }, NoTurn);
  loop.Start();
  const int64_t before_ns = CpuNs();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(CpuNs() - before_ns, 100 * kNsPerMs);
  ASSERT_TRUE(loop.Post(1));
  ran.get_future().wait();
}

}  // namespace
}  // namespace tributary
