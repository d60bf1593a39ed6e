#include "coordinator/core/leases.h"

#include "base/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const SequenceId kFirst(1), kSecond(2);

TEST(LeasesTest, ATurnThatAsksForNoneLeavesNothing) {
  Leases leases;
  leases.BeginTurn(kFirst, "chat", {});
  EXPECT_FALSE(leases.asked(kFirst));
  EXPECT_EQ(leases.num_asked(), 0u);
  EXPECT_FALSE(leases.End(kFirst, "over"));
  EXPECT_EQ(leases.WhyEnded("chat"), nullptr);
}

TEST(LeasesTest, ALeaseRunsFromTheEndOfTheTurn) {
  Leases leases;
  leases.BeginTurn(kFirst, "chat", {kNsPerS, 100});
  EXPECT_EQ(leases.num_asked(), 1u);
  EXPECT_THAT(leases.Expired(100 * kNsPerS), IsEmpty());  // the turn runs
  EXPECT_EQ(leases.Hold(kFirst, 10 * kNsPerS), kNsPerS);
  EXPECT_EQ(leases.held_until_ns(kFirst), 11 * kNsPerS);
  EXPECT_THAT(leases.Expired(11 * kNsPerS - 1), IsEmpty());
  EXPECT_THAT(leases.Expired(11 * kNsPerS), ElementsAre(kFirst));
  EXPECT_TRUE(leases.End(kFirst, "expired"));
  EXPECT_FALSE(leases.End(kFirst, "again"));
  EXPECT_EQ(*leases.WhyEnded("chat"), "expired");
  EXPECT_THAT(leases.Expired(11 * kNsPerS), IsEmpty());
}

TEST(LeasesTest, ALaterTurnThatDoesNotAskIsStillCountedOn) {
  Leases leases;
  leases.BeginTurn(kFirst, "chat", {kNsPerS, 100});
  leases.Hold(kFirst, 0);
  leases.BeginTurn(kFirst, "chat", {});
  EXPECT_FALSE(leases.asked(kFirst));
  EXPECT_EQ(leases.num_asked(), 0u);  // it will not be kept: another may
  EXPECT_THAT(leases.Expired(9 * kNsPerS), IsEmpty());
  EXPECT_TRUE(leases.End(kFirst, "did not ask"));  // but its client is told why
  EXPECT_EQ(*leases.WhyEnded("chat"), "did not ask");
}

TEST(LeasesTest, TheFirstToEndComesFirst) {
  Leases leases;
  leases.BeginTurn(kFirst, "a", {5 * kNsPerS, 100});
  leases.BeginTurn(kSecond, "b", {2 * kNsPerS, 100});
  leases.Hold(kFirst, 0);
  leases.Hold(kSecond, 0);
  EXPECT_THAT(leases.Expired(9 * kNsPerS), ElementsAre(kSecond, kFirst));
}

TEST(LeasesTest, HoldingWhatNobodyAskedForIsABug) {
  Leases leases;
  EXPECT_DEATH(leases.Hold(kFirst, 0), "asked");
}

}  // namespace
}  // namespace tributary
