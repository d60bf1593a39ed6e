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

TEST(LogTest, ControlCharactersAreEscaped) {
  testing::internal::CaptureStderr();
  ASSERT_TRUE(InitLogging("log_test", "info").ok());
  LOG_INFO("from '{}'", "x\x1b[2J\n2026-01-01 E forged");
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_NE(line.find("from 'x\\x1b[2J\\n2026-01-01 E forged'\n"), std::string::npos) << line;
}

}  // namespace
}  // namespace tributary
