#include "base/log.h"

#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(LogTest, UnknownLevelIsAnErrorThatNamesIt) {
  const absl::Status status = InitLogging("log_test", "loud");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("loud"), std::string::npos);
}

TEST(LogTest, KnownLevels) {
  for (const char* level : {"debug", "info", "warn", "error", "off"}) {
    EXPECT_TRUE(InitLogging("log_test", level).ok()) << level;
  }
}

}  // namespace
}  // namespace tributary
