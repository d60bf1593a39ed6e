#include "transport/idle_strategy.h"

#include <gtest/gtest.h>

#include "tests/unit/transport/test_plane.h"

namespace tributary {
namespace {

// Counts sleeps; each one takes the time it was given.
class SleepyPlane : public DataPlane {
 public:
  explicit SleepyPlane(ManualClock* clock) : clock_(clock) {}
  const TransportInfo& info() const override { return info_; }
  absl::StatusOr<PeerId> Connect(std::string_view) override { return PeerId(1); }
  void Disconnect(PeerId) override {}
  absl::StatusOr<FrameBuffer> AllocateFrame(size_t) override { return FrameBuffer(); }
  absl::Status Send(PeerId, FrameBuffer, SendClass) override { return absl::OkStatus(); }
  int Poll(FrameHandler&) override { return 0; }
  void WaitForEvent(int64_t timeout_ns) override { clock_->AdvanceNs(timeout_ns); }
  void Wake() override {}
  DataPlaneCounters counters() const override { return {}; }

 private:
  ManualClock* clock_;
  TransportInfo info_;
};

class IdleStrategyTest : public ::testing::Test {
 protected:
  // Polls once per microsecond until an event after `gap_ns`; returns how often it slept.
  uint64_t SleepsBeforeEventAfter(int64_t gap_ns) {
    const uint64_t before = idle_.num_sleeps();
    const int64_t event_ns = clock_.NowNs() + gap_ns;
    while (clock_.NowNs() < event_ns) {
      idle_.AfterPoll(0, plane_);
      clock_.AdvanceNs(kNsPerUs);
    }
    idle_.AfterPoll(1, plane_);
    return idle_.num_sleeps() - before;
  }

  ManualClock clock_;
  SleepyPlane plane_{&clock_};
  IdleStrategy idle_{{.spin_ns = 50 * kNsPerUs, .sleep_ns = kNsPerMs}, &clock_};
};

TEST_F(IdleStrategyTest, SpinsWhileEventsComeWithinTheSpin) {
  for (int i = 0; i < 10; ++i) EXPECT_EQ(SleepsBeforeEventAfter(49 * kNsPerUs), 0u);
  EXPECT_EQ(idle_.spin_limit_ns(), 50 * kNsPerUs);
}

TEST_F(IdleStrategyTest, SleepsWhenTheSpinIsOver) {
  EXPECT_EQ(SleepsBeforeEventAfter(60 * kNsPerUs), 1u);
  EXPECT_GE(SleepsBeforeEventAfter(10 * kNsPerMs), 9u);
}

TEST_F(IdleStrategyTest, SpinsLessWhenSpinningIsInVainAndRecovers) {
  int64_t last_ns = idle_.spin_limit_ns();
  for (int i = 0; i < 4; ++i) {
    SleepsBeforeEventAfter(kNsPerMs);
    EXPECT_EQ(idle_.spin_limit_ns(), last_ns / 2);
    last_ns = idle_.spin_limit_ns();
  }
  SleepsBeforeEventAfter(kNsPerMs);
  EXPECT_EQ(idle_.spin_limit_ns(), 50 * kNsPerUs / 16);
  SleepsBeforeEventAfter(2 * kNsPerUs);
  EXPECT_EQ(idle_.spin_limit_ns(), 50 * kNsPerUs);
}

TEST_F(IdleStrategyTest, NeverSleepsWhileThereAreEvents) {
  for (int i = 0; i < 100; ++i) idle_.AfterPoll(1, plane_);
  EXPECT_EQ(idle_.num_sleeps(), 0u);
}

TEST(IdleStrategyOptionsTest, ZeroSpinSleepsAtOnce) {
  ManualClock clock;
  SleepyPlane plane(&clock);
  IdleStrategy idle({.spin_ns = 0, .sleep_ns = kNsPerMs}, &clock);
  idle.AfterPoll(0, plane);
  EXPECT_EQ(idle.num_sleeps(), 1u);
}

}  // namespace
}  // namespace tributary
