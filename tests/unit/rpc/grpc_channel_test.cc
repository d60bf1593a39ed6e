#include "rpc/grpc_channel.h"

#include <chrono>
#include <string>

#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "rpc/rpc_server.h"
#include "tests/testutil/silent_peer.h"

namespace tributary {
namespace {

using testing::SilentPeer;

constexpr int64_t kLongNs = 120 * kNsPerS;

std::chrono::system_clock::time_point In(int64_t ns) {
  return std::chrono::system_clock::now() + std::chrono::nanoseconds(ns);
}

TEST(GrpcChannelTest, ThePatienceOfAllProcesses) {
  const RpcOptions options;
  // As long as the coordinator waits for a node (cluster timeouts are 5 s): a peer that stands still for a moment, or
  // one lost SYN (1 s, then 2 s), ends no call. Longer would be no use: the system's own retries come ever more seldom.
  EXPECT_EQ(options.connect_timeout_ns, 5 * kNsPerS);
  // A peer that stands still for 10 s keeps its connections.
  EXPECT_GE(options.keepalive_timeout_ns, 20 * kNsPerS);
  // Servers cut off who pings more often than this, so keepalive must stay well below it.
  EXPECT_GE(options.keepalive_interval_ns, 2 * options.min_ping_interval_ns);
}

TEST(GrpcChannelTest, APeerThatGreetsLateIsWaitedFor) {
  const SilentPeer late(/*greeting_delay_ms=*/1300);
  RpcOptions options;
  options.connect_timeout_ns = kLongNs;
  EXPECT_TRUE(MakeChannel(late.address(), options)->WaitForConnected(In(kLongNs)));
  // No attempt may take less, however often it is repeated.
  options.connect_timeout_ns = 50 * kNsPerMs;
  EXPECT_FALSE(MakeChannel(late.address(), options)->WaitForConnected(In(3 * kNsPerS)));
}

// The time of an attempt is no pause between attempts: a port where nobody listens refuses at once.
TEST(GrpcChannelTest, AProcessThatIsStartedAgainIsFoundPromptly) {
  auto first = RpcServer::Start("127.0.0.1:0", {});
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string address = (*first)->address();
  RpcOptions options;
  options.connect_timeout_ns = 10 * kLongNs;
  const auto channel = MakeChannel(address, options);
  ASSERT_TRUE(channel->WaitForConnected(In(kLongNs)));
  first->reset();
  while (channel->GetState(/*try_to_connect=*/true) != GRPC_CHANNEL_TRANSIENT_FAILURE) {
    ASSERT_TRUE(channel->WaitForStateChange(channel->GetState(true), In(kLongNs)));
  }
  auto second = RpcServer::Start(address, {});
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(channel->WaitForConnected(In(kLongNs)));
}

}  // namespace
}  // namespace tributary
