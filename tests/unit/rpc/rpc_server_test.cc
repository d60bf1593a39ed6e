#include "rpc/rpc_server.h"

#include <chrono>
#include <string>

#include "base/log.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "rpc/grpc_channel.h"
#include "rpc/tcp_acceptor.h"
#include "tests/unit/rpc/tcp_client.h"
#include "tributary/v1/coordinator.grpc.pb.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using testing::TcpClient;

constexpr int kLongMs = 10'000;

class FakeCoordinator final : public v1::Coordinator::Service {
 public:
  grpc::Status Status(grpc::ServerContext*, const v1::StatusRequest*, v1::StatusResponse* response) override {
    response->set_version("9.9.9");
    return grpc::Status::OK;
  }
};

grpc::Status CallStatus(grpc::Channel& channel, std::string* version) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(kLongMs));
  v1::StatusResponse response;
  const auto stub = v1::Coordinator::NewStub(std::shared_ptr<grpc::Channel>(&channel, [](grpc::Channel*) {}));
  const grpc::Status status = stub->Status(&context, {}, &response);
  *version = response.version();
  return status;
}

TEST(RpcServerTest, ServesAndCountsConnections) {
  FakeCoordinator service;
  auto server = RpcServer::Start("127.0.0.1:0", {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  std::string version;
  const auto channel = MakeChannel((*server)->address());
  const grpc::Status status = CallStatus(*channel, &version);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(version, "9.9.9");
  EXPECT_EQ((*server)->connections()->accepted, 1u);
  (*server)->Shutdown(0);
  (*server)->Shutdown(0);  // again does no harm
  EXPECT_EQ(CallStatus(*channel, &version).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(RpcServerTest, AServerOfHealthAlone) {
  auto server = RpcServer::Start("127.0.0.1:0", {});
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->SetServing(true);
  std::string version;
  EXPECT_EQ(CallStatus(*MakeChannel((*server)->address()), &version).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST(RpcServerTest, BadAddressesNameTheFlag) {
  auto server = RpcServer::Start("127.0.0.1:0", {});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto second = RpcServer::Start((*server)->address(), {});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(second.status().ToString(), HasSubstr((*server)->address()));
  EXPECT_THAT(second.status().ToString(), HasSubstr("--listen"));
  EXPECT_EQ(RpcServer::Start("nowhere", {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RpcServerTest, AConnectionThatSaysNothingIsClosed) {
  RpcOptions options;
  options.handshake_timeout_ns = 50 * kNsPerMs;
  auto server = RpcServer::Start("127.0.0.1:0", {}, options);
  ASSERT_TRUE(server.ok()) << server.status();
  TcpClient silent((*server)->address());
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(kLongMs);
  bool closed = false;
  while (!closed && std::chrono::steady_clock::now() < end) {
    if (silent.Read(100).empty()) closed = silent.IsClosedWithin(100);  // the server's settings come first
  }
  EXPECT_TRUE(closed);
}

}  // namespace
}  // namespace tributary
