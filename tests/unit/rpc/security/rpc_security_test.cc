#include "rpc/security/rpc_security.h"

#include <sys/stat.h>

#include <chrono>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "rpc/grpc_channel.h"
#include "rpc/rpc_server.h"
#include "rpc/security/connection_probe.h"
#include "tests/unit/rpc/security/tls_files.h"
#include "tributary/v1/coordinator.grpc.pb.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using testing::TestTlsFiles;

constexpr auto kLong = std::chrono::seconds(20);

// Asks who calls, as services do.
class Service final : public v1::Coordinator::Service, public v1::NodeRegistry::Service {
 public:
  explicit Service(std::shared_ptr<RpcSecurity> security) : security_(std::move(security)) {}
  grpc::Status Status(grpc::ServerContext* context, const v1::StatusRequest*, v1::StatusResponse*) override {
    return Admit(*context, RpcMethod::kStatus);
  }
  grpc::Status Heartbeat(grpc::ServerContext* context, const v1::HeartbeatRequest*, v1::HeartbeatResponse*) override {
    return Admit(*context, RpcMethod::kHeartbeat);
  }

 private:
  grpc::Status Admit(const grpc::ServerContext& context, RpcMethod method) {
    const absl::Status status = security_->access().Check(context, method);
    return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
  }
  const std::shared_ptr<RpcSecurity> security_;
};

class RpcSecurityTest : public ::testing::Test {
 protected:
  void Serve(const SecurityOptions& options) {
    auto security = RpcSecurity::Make(options, PeerRole::kCoordinator);
    ASSERT_TRUE(security.ok()) << security.status();
    security_ = *security;
    service_ = std::make_unique<Service>(security_);
    auto server = RpcServer::Start("127.0.0.1:0",
                                   {static_cast<v1::Coordinator::Service*>(service_.get()),
                                    static_cast<v1::NodeRegistry::Service*>(service_.get())},
                                   security_->ServerOptions());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  RpcOptions ChannelOf(const SecurityOptions& options, PeerRole self) {
    auto security = RpcSecurity::Make(options, self);
    EXPECT_TRUE(security.ok()) << security.status();
    return (*security)->ChannelOptions(PeerRole::kCoordinator);
  }
  grpc::Status Status(const RpcOptions& channel) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kLong);
    v1::StatusResponse response;
    return v1::Coordinator::NewStub(MakeChannel(server_->address(), channel))->Status(&context, {}, &response);
  }
  grpc::Status Heartbeat(const RpcOptions& channel) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kLong);
    v1::HeartbeatResponse response;
    return v1::NodeRegistry::NewStub(MakeChannel(server_->address(), channel))->Heartbeat(&context, {}, &response);
  }
  std::string Why(const RpcOptions& channel) { return WhyNoTlsConnection(server_->address(), channel.credentials); }
  SecurityOptions Secret(const std::string& text) {
    SecurityOptions options;
    options.cluster_secret_file = dir_ / (text + ".secret");
    WriteFile(options.cluster_secret_file, text);
    chmod(options.cluster_secret_file.c_str(), 0600);
    return options;
  }

  TempDir dir_;
  const TestCertificate ca_{"ca"};
  const TestCertificate other_ca_{"other-ca"};
  std::shared_ptr<RpcSecurity> security_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<RpcServer> server_;
};

TEST_F(RpcSecurityTest, TlsGivesEachRoleItsMethods) {
  const TestTlsFiles coordinator(ca_, PeerRole::kCoordinator);
  const TestTlsFiles client(ca_, PeerRole::kClient);
  const TestTlsFiles node(ca_, PeerRole::kNode);
  Serve(coordinator.options());
  const RpcOptions as_client = ChannelOf(client.options(), PeerRole::kClient);
  const RpcOptions as_node = ChannelOf(node.options(), PeerRole::kNode);
  EXPECT_TRUE(Status(as_client).ok());
  EXPECT_TRUE(Heartbeat(as_node).ok());
  const grpc::Status refused = Heartbeat(as_client);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(refused.error_message(),
            "Heartbeat is for the role node; the caller has client, by the certificate of 'peer-1'");
  EXPECT_EQ(Status(as_node).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(security_->access().refusals(RpcMethod::kHeartbeat).permission_denied, 1u);
  EXPECT_EQ(security_->access().refusals(RpcMethod::kStatus).permission_denied, 1u);
  EXPECT_EQ(*security_->access().num_handshakes(), 4u);
  EXPECT_EQ(Why(as_client), "");
}

TEST_F(RpcSecurityTest, WhoHasNoCertificateOfTheCaGetsNoConnectionAndLearnsWhy) {
  const TestTlsFiles coordinator(ca_, PeerRole::kCoordinator);
  Serve(coordinator.options());
  const TestTlsFiles foreign(other_ca_, PeerRole::kClient);
  const RpcOptions trusts_another = ChannelOf(foreign.options(), PeerRole::kClient);
  EXPECT_EQ(Status(trusts_another).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(Why(trusts_another), HasSubstr("does not vouch for the server's certificate"));
  // It trusts the server, and the server not it.
  RpcOptions foreign_to_the_server = trusts_another;
  ca_.WriteCertificate(foreign.files().ca);
  EXPECT_THAT(Why(foreign_to_the_server), HasSubstr("the server refuses --tls-cert '" + foreign.files().cert));
  EXPECT_EQ(Status({}).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Why({}), "the server there speaks TLS: give --tls-cert, --tls-key and --tls-ca");
  EXPECT_EQ(*security_->access().num_handshakes(), 0u);
}

TEST_F(RpcSecurityTest, ANodeCannotPassAsTheCoordinator) {
  const TestTlsFiles client(ca_, PeerRole::kClient);
  TestCertificateOptions both;
  both.alt_names = "DNS:node.tributary.internal,DNS:localhost,IP:127.0.0.1";
  const TestTlsFiles node(ca_, both);
  auto security = RpcSecurity::Make(node.options(), PeerRole::kNode);
  ASSERT_TRUE(security.ok()) << security.status();
  auto server = RpcServer::Start("127.0.0.1:0", {}, (*security)->ServerOptions());
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  const RpcOptions as_client = ChannelOf(client.options(), PeerRole::kClient);
  EXPECT_EQ(Status(as_client).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(Why(as_client), HasSubstr("does not have the name coordinator.tributary.internal"));
}

TEST_F(RpcSecurityTest, APlaintextServerIsNamedAsSuch) {
  const TestTlsFiles client(ca_, PeerRole::kClient);
  Serve({});
  EXPECT_THAT(Why(ChannelOf(client.options(), PeerRole::kClient)), HasSubstr("does not speak TLS"));
}

TEST_F(RpcSecurityTest, NewFilesAreReadWhileItRuns) {
  TestTlsFiles coordinator(ca_, PeerRole::kCoordinator);
  const TestTlsFiles old_client(ca_, PeerRole::kClient);
  const TestTlsFiles new_client(other_ca_, PeerRole::kClient);
  Serve(coordinator.options());
  EXPECT_TRUE(Status(ChannelOf(old_client.options(), PeerRole::kClient)).ok());
  other_ca_.WriteCertificate(coordinator.files().ca);
  coordinator.Renew(other_ca_, TestTlsFiles::OptionsOf(PeerRole::kCoordinator));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  grpc::Status status;
  do {
    status = Status(ChannelOf(new_client.options(), PeerRole::kClient));
  } while (!status.ok() && std::chrono::steady_clock::now() < end);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Status(ChannelOf(old_client.options(), PeerRole::kClient)).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(RpcSecurityTest, ASecretMakesMembersAndClientsNeedNone) {
  Serve(Secret("0123456789abcdef"));
  EXPECT_TRUE(Status({}).ok());
  EXPECT_TRUE(Heartbeat(ChannelOf(Secret("0123456789abcdef"), PeerRole::kNode)).ok());
  const grpc::Status without = Heartbeat({});
  EXPECT_EQ(without.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(without.error_message(), HasSubstr("--cluster-secret-file"));
  const grpc::Status other = Heartbeat(ChannelOf(Secret("another secret of 16"), PeerRole::kNode));
  EXPECT_EQ(other.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(other.error_message(), HasSubstr("cluster secret is another"));
  const grpc::Status worker = Heartbeat(ChannelOf(Secret("0123456789abcdef"), PeerRole::kWorker));
  EXPECT_EQ(worker.error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(security_->access().refusals(RpcMethod::kHeartbeat).unauthenticated, 2u);
  EXPECT_EQ(security_->access().refusals(RpcMethod::kHeartbeat).permission_denied, 1u);
}

TEST_F(RpcSecurityTest, WithBothAMemberNeedsBoth) {
  const TestTlsFiles coordinator(ca_, PeerRole::kCoordinator);
  const TestTlsFiles node(ca_, PeerRole::kNode);
  SecurityOptions both = Secret("0123456789abcdef");
  both.tls = coordinator.files();
  Serve(both);
  EXPECT_EQ(Heartbeat(ChannelOf(node.options(), PeerRole::kNode)).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  SecurityOptions as_node = both;
  as_node.tls = node.files();
  EXPECT_TRUE(Heartbeat(ChannelOf(as_node, PeerRole::kNode)).ok());
}

TEST_F(RpcSecurityTest, WhoAsksNobodyListensToThisHostAlone) {
  const auto start = [](const SecurityOptions& options, const char* listen) {
    const auto security = RpcSecurity::Make(options, PeerRole::kNode);
    return RpcServer::Start(listen, {}, (*security)->ServerOptions()).status();
  };
  for (const char* here : {"127.0.0.1:0", "127.1.2.3:0", "localhost:0"}) EXPECT_TRUE(start({}, here).ok()) << here;
  for (const char* everywhere : {"0.0.0.0:0", "[::]:0"}) {
    const absl::Status status = start({}, everywhere);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is open to other hosts"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("--insecure listens all the same"));
  }
  SecurityOptions insecure;
  insecure.insecure = true;
  EXPECT_TRUE(start(insecure, "0.0.0.0:0").ok());
  EXPECT_TRUE(start(Secret("0123456789abcdef"), "0.0.0.0:0").ok());
}

}  // namespace
}  // namespace tributary
