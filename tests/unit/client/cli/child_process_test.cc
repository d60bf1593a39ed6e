#include "client/cli/child_process.h"

#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

class ChildProcessTest : public ::testing::Test {
 protected:
  ~ChildProcessTest() override { std::filesystem::remove(log_); }
  ChildProcess Start(const std::string& script) {
    auto child = ChildProcess::Start("child", {"/bin/sh", "-c", script}, log_);
    EXPECT_TRUE(child.ok()) << child.status();
    return *std::move(child);
  }
  const std::string log_ = std::filesystem::temp_directory_path() / ("child_" + std::to_string(getpid()) + ".log");
};

TEST_F(ChildProcessTest, ExitStatusAndLastWordsAreKept) {
  ChildProcess child = Start("echo first; echo 'it broke' >&2; exit 3");
  ASSERT_TRUE(child.WaitForEnd(30));
  EXPECT_FALSE(child.exited_cleanly());
  EXPECT_EQ(child.exit_text(), "exited with status 3");
  EXPECT_EQ(child.LastError(), "it broke");
}

TEST_F(ChildProcessTest, SignalsAreNamed) {
  ChildProcess child = Start("exec sleep 1000");
  EXPECT_TRUE(child.Poll());
  EXPECT_FALSE(child.WaitForEnd(0));
  child.Signal(SIGKILL);
  ASSERT_TRUE(child.WaitForEnd(30));
  EXPECT_THAT(child.exit_text(), HasSubstr("signal 9"));
}

TEST_F(ChildProcessTest, DestructionEndsTheChild) {
  pid_t pid;
  {
    ChildProcess child = Start("exec sleep 1000");
    pid = child.pid();
    EXPECT_EQ(kill(pid, 0), 0);
  }
  EXPECT_NE(kill(pid, 0), 0);
}

TEST_F(ChildProcessTest, MissingBinaryIsAnError) {
  const auto child = ChildProcess::Start("child", {"/nonexistent/binary"}, log_);
  EXPECT_THAT(std::string(child.status().message()), HasSubstr("/nonexistent/binary"));
}

TEST(LastErrorLineTest, PrefersErrorsAndDropsPrefixes) {
  EXPECT_EQ(LastErrorLine("2026-01-01T00:00:00.000 E tributary-gpu-worker[12] no config.json\n"
                          "2026-01-01T00:00:00.001 I tributary-gpu-worker[12] stopping\n\n"),
            "no config.json");
  EXPECT_EQ(LastErrorLine("2026-01-01T00:00:00.001 I tributary-gpu-worker[12] stopping\n"), "stopping");
  EXPECT_EQ(LastErrorLine("bad flag\n"), "bad flag");
  EXPECT_EQ(LastErrorLine("tributary-coordinator: the port is taken\nRun with --help\n"), "the port is taken");
  EXPECT_EQ(LastErrorLine("--threads: Value 2000 not in range 0 to 1024\nRun with --help for more information.\n"),
            "--threads: Value 2000 not in range 0 to 1024");
  EXPECT_EQ(
      LastErrorLine("tributary-cpu-attention: --threads: too many\n'tributary-cpu-attention --help' has the flags.\n"),
      "--threads: too many");
  EXPECT_EQ(LastErrorLine(""), "");
}

}  // namespace
}  // namespace tributary
