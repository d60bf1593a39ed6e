#include "rpc/rpc_server.h"

#include <chrono>
#include <mutex>
#include <utility>

#include "base/status.h"
#include "fmt/format.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "grpcpp/version_info.h"
#include "rpc/grpc_log.h"
#include "rpc/tcp_acceptor.h"

namespace tributary {
namespace {

int Milliseconds(int64_t ns) { return static_cast<int>(ns / kNsPerMs); }

void Configure(const RpcOptions& options, grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             Milliseconds(options.min_ping_interval_ns));
  if (options.keepalive_interval_ns > 0) {
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_interval_ns));
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_timeout_ns));
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  }
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Milliseconds(options.handshake_timeout_ns));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, static_cast<int>(options.max_metadata_bytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, static_cast<int>(options.max_streams_per_connection));
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(options.max_message_bytes));
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, options.min_pollers);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, options.max_pollers);
  grpc::ResourceQuota quota("tributary");
  quota.Resize(options.max_memory_bytes);
  quota.SetMaxThreads(options.max_threads);
  builder.SetResourceQuota(quota);
}

absl::StatusOr<std::unique_ptr<TcpAcceptor>> Listen(std::string_view listen, const RpcOptions& options) {
  auto acceptor = TcpAcceptor::Listen(listen, {.what = "gRPC",
                                               .max_connections = options.max_connections,
                                               .non_blocking = true,
                                               .loopback_only = options.loopback_only,
                                               .user_timeout_ns = options.keepalive_timeout_ns});
  if (acceptor.ok()) return acceptor;
  if (absl::IsFailedPrecondition(acceptor.status())) {
    return absl::FailedPreconditionError(
        fmt::format("{}, and gRPC would ask nobody there who he is: give --tls-cert, --tls-key and --tls-ca, or "
                    "--cluster-secret-file (SECURITY.md); --insecure listens all the same (--listen)",
                    std::string(acceptor.status().message())));
  }
  return absl::Status(acceptor.status().code(), fmt::format("{} (--listen)", std::string(acceptor.status().message())));
}

}  // namespace

std::string_view GrpcVersion() { return GRPC_CPP_VERSION_STRING; }

struct RpcServer::Impl {
  grpc::CallbackGenericService unimplemented;  // outlives the server
  std::unique_ptr<TcpAcceptor> acceptor;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> connections;
  std::unique_ptr<grpc::Server> server;
  std::once_flag shut_down;
};

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(std::string_view listen,
                                                            const std::vector<grpc::Service*>& services,
                                                            const RpcOptions& options) {
  RouteGrpcLog();
  grpc::EnableDefaultHealthCheckService(true);
  auto impl = std::make_unique<Impl>();
  TRIBUTARY_ASSIGN_OR_RETURN(impl->acceptor, Listen(listen, options));
  grpc::ServerBuilder builder;
  Configure(options, builder);
  for (grpc::Service* service : services) builder.RegisterService(service);
  // gRPC starts no server without a service of ours; this one answers UNIMPLEMENTED to everything.
  if (services.empty()) builder.RegisterCallbackGenericService(&impl->unimplemented);
  const auto& credentials = options.credentials.server;
  impl->connections = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      credentials != nullptr ? credentials : grpc::InsecureServerCredentials());
  impl->server = builder.BuildAndStart();
  if (impl->server == nullptr) {
    return absl::InternalError(fmt::format("gRPC does not start a server for '{}' (--listen); its log lines say why",
                                           impl->acceptor->address()));
  }
  impl->acceptor->Start([connections = impl->connections.get()](int listener_fd, int fd) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = listener_fd;
    connection.fd = fd;
    connections->HandleNewConnection(&connection);
  });
  return std::unique_ptr<RpcServer>(new RpcServer(std::move(impl)));
}

RpcServer::RpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

RpcServer::~RpcServer() { Shutdown(0); }

const std::string& RpcServer::address() const { return impl_->acceptor->address(); }

void RpcServer::SetServing(bool serving, const std::string& service) {
  grpc::HealthCheckServiceInterface* health = impl_->server->GetHealthCheckService();
  if (health == nullptr) return;
  health->SetServingStatus(service, serving);
  health->SetServingStatus("", serving);
}

void RpcServer::Shutdown(int64_t grace_ns) {
  std::call_once(impl_->shut_down, [&] {
    impl_->acceptor->Stop();
    impl_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::nanoseconds(grace_ns));
    impl_->server->Wait();
  });
}

std::shared_ptr<const ConnectionCounters> RpcServer::connections() const { return impl_->acceptor->counters(); }

}  // namespace tributary
