#include "process/stop_signals.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "gtest/gtest.h"

namespace tributary {
namespace {

// Signals change the whole process, so each in a process of its own.
TEST(StopSignalsDeathTest, TheFirstAsksTheSecondEnds) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        StopSignals stop;
        if (stop.requested() || stop.Wait(1'000'000)) std::exit(11);
        kill(getpid(), SIGTERM);
        if (!stop.Wait() || !stop.requested()) std::exit(12);
        std::exit(7);
      },
      testing::ExitedWithCode(7), "");
  EXPECT_EXIT(
      {
        StopSignals stop;
        kill(getpid(), SIGTERM);
        stop.Wait();
        kill(getpid(), SIGINT);
        while (true) pause();
      },
      testing::ExitedWithCode(1), "");
}

TEST(RefusalDeathTest, AsksToStopAndSaysWhy) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(
      {
        StopSignals stop;
        Refusal refusal(&stop);
        if (!refusal.Get().ok()) std::exit(11);
        refusal.Set(absl::FailedPreconditionError("another release"));
        if (!stop.Wait(0) || refusal.Get().message() != "another release") std::exit(12);
        std::exit(7);
      },
      testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace tributary
