#include "coordinator/core/request_queue.h"

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;

TEST(RequestQueueTest, OrderIsThatOfArrival) {
  RequestQueue queue(2);
  queue.Push(SequenceId(9));
  queue.Push(SequenceId(3));
  EXPECT_TRUE(queue.full());
  EXPECT_EQ(queue.front(), SequenceId(9));
  EXPECT_THAT(queue.waiting(), ElementsAre(SequenceId(9), SequenceId(3)));
  queue.Remove(SequenceId(9));
  queue.Remove(SequenceId(77));
  EXPECT_EQ(queue.front(), SequenceId(3));
  EXPECT_FALSE(queue.full());
}

TEST(RequestQueueTest, WhoHadAPlaceComesBeforeThoseWhoHadNoneInTheOrderOfReturn) {
  RequestQueue queue(9);
  queue.Push(SequenceId(1));
  queue.PushFront(SequenceId(5));
  queue.PushFront(SequenceId(4));
  EXPECT_THAT(queue.waiting(), ElementsAre(SequenceId(5), SequenceId(4), SequenceId(1)));
  queue.Remove(SequenceId(5));
  queue.PushFront(SequenceId(6));
  queue.Remove(SequenceId(1));
  queue.Push(SequenceId(2));
  EXPECT_THAT(queue.waiting(), ElementsAre(SequenceId(4), SequenceId(6), SequenceId(2)));
}

TEST(RequestQueueTest, WhoHadAPlaceTakesNoneInTheQueue) {
  RequestQueue queue(1);
  queue.PushFront(SequenceId(5));
  EXPECT_FALSE(queue.full());
  queue.Push(SequenceId(1));
  EXPECT_TRUE(queue.full());
}

TEST(RequestQueueTest, AQueueOfNoneIsAlwaysFull) {
  RequestQueue queue(0);
  EXPECT_TRUE(queue.empty());
  EXPECT_TRUE(queue.full());
}

TEST(RequestQueueTest, TheDelayFollowsTheMeanAndTheCrowd) {
  RequestQueue queue(100);
  EXPECT_EQ(queue.RetryDelay(1), kNsPerS);
  EXPECT_EQ(queue.RetryDelay(0), kNsPerS);  // nothing runs: as if one did
  for (uint64_t i = 1; i <= 7; ++i) queue.Push(SequenceId(i));
  EXPECT_EQ(queue.RetryDelay(2), 4 * kNsPerS);
  queue.OnFinished(6.0);  // the mean is 2 s now
  EXPECT_EQ(queue.RetryDelay(2), 8 * kNsPerS);
  EXPECT_EQ(queue.RetryDelay(1000), kNsPerS / 4);
  for (int i = 0; i < 40; ++i) queue.OnFinished(1000.0);
  EXPECT_EQ(queue.RetryDelay(1), 30 * kNsPerS);
}

}  // namespace
}  // namespace tributary
