#include "coordinator/core/step_scheduler.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;

const SequenceId kA(1), kB(2), kC(3);

TEST(StepSchedulerTest, TwoStepsInFlightThenNoneUntilOneIsDone) {
  StepScheduler scheduler(8);
  EXPECT_FALSE(scheduler.Next(0).has_value());
  scheduler.Join(kA, 10);
  const auto first = scheduler.Next(100);
  const auto second = scheduler.Next(200);
  ASSERT_TRUE(first && second);
  EXPECT_LT(first->step_id, second->step_id);
  EXPECT_FALSE(scheduler.Next(300).has_value());
  EXPECT_EQ(scheduler.oldest_sent_ns(), 100);
  EXPECT_TRUE(scheduler.OnDone(first->step_id, {kA}));
  EXPECT_FALSE(scheduler.OnDone(first->step_id, {kA}));
  EXPECT_EQ(scheduler.oldest_sent_ns(), 200);
  EXPECT_TRUE(scheduler.Next(400).has_value());
}

TEST(StepSchedulerTest, NoSequenceIsSteppedBeyondItsTokens) {
  StepScheduler scheduler(8);
  scheduler.Join(kA, 1);
  scheduler.Join(kB, 3);
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kA, kB));
  const auto second = scheduler.Next(0);
  EXPECT_THAT(second->sequences, ElementsAre(kB));
  scheduler.OnDone(StepId(1), {kA, kB});
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kB));
  scheduler.OnDone(second->step_id, {kB});
  EXPECT_FALSE(scheduler.Next(0).has_value());
  scheduler.Join(kC, 0);
  EXPECT_FALSE(scheduler.Next(0).has_value());
}

TEST(StepSchedulerTest, MoreSequencesThanABatchTakeTurns) {
  StepScheduler scheduler(2);
  for (const SequenceId id : {kA, kB, kC}) scheduler.Join(id, 10);
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kA, kB));
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kC, kA));
  scheduler.OnDone(StepId(1), {kA, kB});
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kB, kC));
}

TEST(StepSchedulerTest, WhoLeavesIsInNoFurtherStep) {
  StepScheduler scheduler(8);
  scheduler.Join(kA, 10);
  scheduler.Join(kB, 10);
  scheduler.Join(kB, 99);  // is there already
  scheduler.Next(0);
  scheduler.Leave(kA);
  scheduler.Leave(kC);
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kB));
}

// A worker leaves out who waits for a silent node; its steps are taken later, as many as its tokens.
TEST(StepSchedulerTest, AStepWithoutATokenIsGivenBack) {
  StepScheduler scheduler(8);
  scheduler.Join(kA, 1);
  scheduler.Join(kB, 1);
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kA, kB));
  EXPECT_FALSE(scheduler.Next(0).has_value());
  scheduler.OnDone(StepId(1), {kB});
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kA));
  scheduler.Leave(kA);
  scheduler.OnDone(StepId(2), {});
  EXPECT_FALSE(scheduler.Next(0).has_value()) << "it has left";
}

TEST(StepSchedulerTest, WhoIsSuspendedIsInNoStepUntilItIsResumed) {
  StepScheduler scheduler(8);
  scheduler.Join(kA, 3);
  scheduler.Join(kB, 9);
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kA, kB));
  scheduler.Suspend(kA);
  scheduler.Suspend(kA);
  scheduler.Suspend(kC);
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kB));
  scheduler.OnDone(StepId(1), {kB});  // what kA was in has brought nothing
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kB));
  scheduler.Resume(kA);
  scheduler.Resume(kA);
  scheduler.OnDone(StepId(2), {kB});
  EXPECT_THAT(scheduler.Next(0)->sequences, ElementsAre(kB, kA));
}

TEST(StepSchedulerTest, ForgivenStepsCountFromThenOn) {
  StepScheduler scheduler(8);
  scheduler.Join(kA, 3);
  (void)scheduler.Next(100);
  scheduler.ForgiveUntil(500);
  EXPECT_EQ(scheduler.oldest_sent_ns(), 500);
}

}  // namespace
}  // namespace tributary
