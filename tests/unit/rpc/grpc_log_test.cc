#include "rpc/grpc_log.h"

#include <algorithm>

#include "base/log.h"
#include "gmock/gmock.h"
#include "grpc/support/log.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(GrpcLogTest, ErrorsBecomeWarningsAtALimitedRate) {
  ::testing::internal::CaptureStderr();
  ASSERT_TRUE(InitLogging("test", "info").ok());
  RouteGrpcLog();
  RouteGrpcLog();
  gpr_log("src/core/lib/some_file.cc", 12, GPR_LOG_SEVERITY_ERROR, "Failed %s: %d", "accept4", 24);
  for (int i = 0; i < 100; ++i) gpr_log("a.cc", 1, GPR_LOG_SEVERITY_ERROR, "again");
  gpr_log("a.cc", 1, GPR_LOG_SEVERITY_DEBUG, "not asked for");
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr(" W test["));
  EXPECT_THAT(log, HasSubstr("gRPC: Failed accept4: 24 (some_file.cc:12)"));
  EXPECT_THAT(log, ::testing::Not(HasSubstr("not asked for")));
  EXPECT_LE(std::count(log.begin(), log.end(), '\n'), 20) << log;  // five, or more if the machine stood still
}

}  // namespace
}  // namespace tributary
