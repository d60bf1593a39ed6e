#include "rpc/tcp_acceptor.h"

#include <sys/resource.h>

#include <atomic>
#include <mutex>
#include <vector>

#include "base/log.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/rpc/tcp_client.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using testing::TcpClient;

constexpr int kLongMs = 10'000;

TEST(DescriptorCeilingTest, KeepsAShareForTheProcess) {
  EXPECT_EQ(DescriptorCeiling(256, 4096), 224);
  EXPECT_EQ(DescriptorCeiling(1024, 4096), 896);
  EXPECT_EQ(DescriptorCeiling(20'000, 4096), 5120);
  EXPECT_EQ(DescriptorCeiling(40, 4096), 20);
  EXPECT_GT(DescriptorCeiling(RLIM_INFINITY, ~0u), 1 << 29);
}

// Keeps what it is given, until it is told to close it.
class Keeper {
 public:
  TcpAcceptor::OnConnection OnConnection() {
    return [this](int, int fd) {
      std::lock_guard lock(mutex_);
      fds_.push_back(fd);
      ++num_taken_;
    };
  }
  ~Keeper() { CloseAll(); }
  void CloseAll() {
    std::lock_guard lock(mutex_);
    for (const int fd : fds_) close(fd);
    fds_.clear();
  }
  int num_taken() const { return num_taken_; }

 private:
  std::mutex mutex_;
  std::vector<int> fds_;
  std::atomic<int> num_taken_{0};
};

TEST(TcpAcceptorTest, HandsConnectionsOver) {
  auto acceptor = TcpAcceptor::Listen("127.0.0.1:0", {});
  ASSERT_TRUE(acceptor.ok()) << acceptor.status();
  (*acceptor)->Start([](int, int fd) {
    EXPECT_EQ(write(fd, "hi", 2), 2);
    close(fd);
  });
  TcpClient client((*acceptor)->address());
  EXPECT_EQ(client.Read(kLongMs), "hi");
  EXPECT_EQ((*acceptor)->counters()->accepted, 1u);
  EXPECT_EQ((*acceptor)->counters()->refused, 0u);
}

TEST(TcpAcceptorTest, NobodyListensAfterStop) {
  auto acceptor = TcpAcceptor::Listen("127.0.0.1:0", {});
  ASSERT_TRUE(acceptor.ok()) << acceptor.status();
  (*acceptor)->Start([](int, int fd) { close(fd); });
  (*acceptor)->Stop();
  EXPECT_FALSE(TcpClient((*acceptor)->address()).connected());
}

// Sets this process's limit for a scope.
class SoftLimit {
 public:
  explicit SoftLimit(rlim_t soft) {
    getrlimit(RLIMIT_NOFILE, &old_);
    const rlimit low{soft, old_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  }
  ~SoftLimit() { setrlimit(RLIMIT_NOFILE, &old_); }

 private:
  rlimit old_{};
};

TEST(TcpAcceptorTest, RefusesAtTheCeilingAndRecovers) {
  ASSERT_TRUE(InitLogging("test", "warn").ok());
  // The clients lie in this process, too: half of the descriptors below the ceiling of 224 are theirs.
  const SoftLimit limit(256);
  auto acceptor = TcpAcceptor::Listen("127.0.0.1:0", {.what = "test", .max_connections = 1000});
  ASSERT_TRUE(acceptor.ok()) << acceptor.status();
  Keeper keeper;
  (*acceptor)->Start(keeper.OnConnection());
  ::testing::internal::CaptureStderr();
  std::vector<TcpClient> clients;
  for (int i = 0; i < 400 && (*acceptor)->counters()->refused == 0; ++i) {
    // One at a time, so that both kinds of descriptors alternate.
    const uint64_t before = (*acceptor)->counters()->accepted + (*acceptor)->counters()->refused;
    clients.emplace_back((*acceptor)->address());
    ASSERT_TRUE(clients.back().connected());
    while ((*acceptor)->counters()->accepted + (*acceptor)->counters()->refused == before) std::this_thread::yield();
  }
  EXPECT_TRUE(clients.back().IsClosedWithin(kLongMs));
  EXPECT_GT(keeper.num_taken(), 50);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(TcpClient((*acceptor)->address()).IsClosedWithin(kLongMs));
  clients.clear();
  keeper.CloseAll();
  const int taken = keeper.num_taken();
  TcpClient after((*acceptor)->address());
  while (keeper.num_taken() == taken) std::this_thread::yield();
  EXPECT_FALSE(after.IsClosedWithin(0));
  (*acceptor)->Stop();
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("connections refused, because all file descriptors below 224 are in use (limit 256"));
  EXPECT_LE(std::count(log.begin(), log.end(), '\n'), 3) << log;  // one per second at most
}

TEST(TcpAcceptorTest, GoesOnWhenThereWasNoDescriptorAtAll) {
  ASSERT_TRUE(InitLogging("test", "off").ok());
  const SoftLimit limit(64);
  auto acceptor = TcpAcceptor::Listen("127.0.0.1:0", {});
  ASSERT_TRUE(acceptor.ok()) << acceptor.status();
  Keeper keeper;
  (*acceptor)->Start(keeper.OnConnection());
  std::vector<int> hoard;
  TcpClient client("127.0.0.1:1");  // its descriptor is taken before the hoard; it connects to nobody
  for (int fd; (fd = dup(client.fd())) >= 0;) hoard.push_back(fd);
  close(hoard.back());  // one for a client, none for the server's side
  hoard.pop_back();
  TcpClient pending((*acceptor)->address());
  ASSERT_TRUE(pending.connected());
  while ((*acceptor)->counters()->refused == 0) std::this_thread::yield();
  EXPECT_EQ(keeper.num_taken(), 0);
  for (const int fd : hoard) close(fd);
  while (keeper.num_taken() == 0) std::this_thread::yield();  // the one that waited
}

TEST(TcpAcceptorTest, BadAddressesAreErrorsThatNameThem) {
  for (const char* listen : {"", "9100", ":9100", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:9x"}) {
    SCOPED_TRACE(listen);
    EXPECT_EQ(TcpAcceptor::Listen(listen, {}).status().code(), absl::StatusCode::kInvalidArgument);
  }
  auto first = TcpAcceptor::Listen("127.0.0.1:0", {});
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = TcpAcceptor::Listen((*first)->address(), {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*first)->address()));
  EXPECT_EQ(TcpAcceptor::Listen("192.0.2.1:0", {}).status().code(), absl::StatusCode::kUnavailable);
}

TEST(TcpAcceptorTest, AllAddressesOfBothFamilies) {
  auto acceptor = TcpAcceptor::Listen("0.0.0.0:0", {});
  ASSERT_TRUE(acceptor.ok()) << acceptor.status();
  EXPECT_THAT((*acceptor)->address(), HasSubstr("0.0.0.0:"));
  EXPECT_TRUE(TcpClient((*acceptor)->address()).connected());
  // A second server may not have the port, not on one of the addresses either.
  const std::string port = (*acceptor)->address().substr((*acceptor)->address().rfind(':'));
  EXPECT_FALSE(TcpAcceptor::Listen("127.0.0.1" + port, {}).ok());
}

}  // namespace
}  // namespace tributary
