#include "process/local_process.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "gtest/gtest.h"

namespace tributary {
namespace {

// A child that sleeps until it is killed.
class Child {
 public:
  Child() : pid_(fork()) {
    if (pid_ != 0) return;
    while (true) pause();
  }
  ~Child() { Kill(); }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  // As the child itself would say it.
  ProcessIdentity identity() const {
    ProcessIdentity identity = ThisProcess();
    identity.pid = pid_;
    identity.start_ticks = start_ticks();
    return identity;
  }
  pid_t pid() const { return pid_; }

 private:
  uint64_t start_ticks() const {
    const std::string path = "/proc/" + std::to_string(pid_) + "/stat";
    std::FILE* const file = std::fopen(path.c_str(), "r");
    if (file == nullptr) return 0;
    unsigned long long ticks = 0;
    (void)!std::fscanf(file, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                       &ticks);
    std::fclose(file);
    return ticks;
  }

  pid_t pid_;
};

TEST(LocalProcessTest, SaysWhoItIs) {
  const ProcessIdentity self = ThisProcess();
  EXPECT_EQ(self.pid, getpid());
  EXPECT_FALSE(self.boot_id.empty());
  EXPECT_NE(self.pid_namespace, 0u);
  EXPECT_NE(self.start_ticks, 0u);
}

TEST(LocalProcessTest, SeesAProcessEnd) {
  Child child;
  const auto watch = ProcessWatch::Open(child.identity());
  ASSERT_NE(watch, nullptr);
  EXPECT_FALSE(watch->HasEnded());
  child.Kill();
  EXPECT_TRUE(watch->HasEnded());
}

TEST(LocalProcessTest, AProcessThatStandsStillHasNotEnded) {
  Child child;
  const auto watch = ProcessWatch::Open(child.identity());
  ASSERT_NE(watch, nullptr);
  kill(child.pid(), SIGSTOP);
  EXPECT_FALSE(watch->HasEnded());
}

TEST(LocalProcessTest, KnowsNothingOfOthers) {
  Child child;
  ProcessIdentity other = child.identity();
  other.boot_id = "00000000-0000-0000-0000-000000000000";
  EXPECT_EQ(ProcessWatch::Open(other), nullptr) << "another host";
  other = child.identity();
  ++other.pid_namespace;
  EXPECT_EQ(ProcessWatch::Open(other), nullptr) << "another container";
  other = child.identity();
  ++other.start_ticks;
  EXPECT_EQ(ProcessWatch::Open(other), nullptr) << "a later process of the same number";
  other = child.identity();
  other.pid = 0;
  EXPECT_EQ(ProcessWatch::Open(other), nullptr);
  EXPECT_EQ(ProcessWatch::Open({}), nullptr);
  other = child.identity();
  child.Kill();
  EXPECT_EQ(ProcessWatch::Open(other), nullptr) << "it has ended";
}

}  // namespace
}  // namespace tributary
