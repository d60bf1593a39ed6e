#include "process/fd_limit.h"

#include <sys/resource.h>

#include "base/log.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(FdLimitTest, TheSoftLimitBecomesTheHardOne) {
  ASSERT_TRUE(InitLogging("test", "off").ok());
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  const rlimit low{64, old.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  const FdLimit limit = RaiseFdLimit();
  EXPECT_EQ(limit.before, 64u);
  EXPECT_EQ(limit.now, old.rlim_max);
  EXPECT_EQ(limit.hard, old.rlim_max);
  rlimit now{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &now), 0);
  EXPECT_EQ(now.rlim_cur, old.rlim_max);
  setrlimit(RLIMIT_NOFILE, &old);
}

}  // namespace
}  // namespace tributary
