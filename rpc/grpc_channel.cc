#include "rpc/grpc_channel.h"

#include <charconv>
#include <cstdlib>

#include "base/limits.h"
#include "fmt/format.h"
#include "grpc/support/log.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"

namespace tributary {
namespace {

// A varint token takes at most 3 bytes below kMaxVocab; room for everything else.
constexpr int kMaxMessageBytes = static_cast<int>(limits::kMaxPromptBytes) + (4 << 20);

}  // namespace

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3000);
  args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetMaxReceiveMessageSize(kMaxMessageBytes);
  args.SetMaxSendMessageSize(kMaxMessageBytes);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

void InitGrpc() {
  grpc::EnableDefaultHealthCheckService(true);
  if (std::getenv("GRPC_VERBOSITY") == nullptr) {
    gpr_set_log_verbosity(static_cast<gpr_log_severity>(GPR_LOG_SEVERITY_ERROR + 1));
  }
}

void ConfigureServer(grpc::ServerBuilder& builder) {
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 8192);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                             0);  // a busy port is an error, not a lottery
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
}

absl::StatusOr<std::unique_ptr<grpc::Server>> StartServer(grpc::ServerBuilder& builder, const std::string& listen,
                                                          std::string* address) {
  const size_t colon = listen.rfind(':');
  int wanted_port = -1;
  if (colon != std::string::npos && colon > 0) {
    const char* end = listen.data() + listen.size();
    const auto [last, error] = std::from_chars(listen.data() + colon + 1, end, wanted_port);
    if (error != std::errc() || last != end) wanted_port = -1;
  }
  if (wanted_port < 0 || wanted_port > 65535) {
    return absl::InvalidArgumentError(
        fmt::format("--listen '{}' is not host:port with a port from 0 to 65535, e.g. 127.0.0.1:0", listen));
  }
  int port = 0;
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(
        fmt::format("cannot listen on '{}': the port is taken, or the host is not this machine's; "
                    "choose another "
                    "port (0 takes a free one)",
                    listen));
  }
  *address = fmt::format("{}:{}", listen.substr(0, colon), port);
  return server;
}

absl::StatusOr<std::unique_ptr<grpc::Server>> StartHealthServer(const std::string& listen, std::string* address) {
  // gRPC starts no server without a service of ours; this one answers UNIMPLEMENTED to everything. It must outlive
  // every server, so it lives as long as the process.
  static auto& unimplemented = *new grpc::CallbackGenericService;
  InitGrpc();
  grpc::ServerBuilder builder;
  ConfigureServer(builder);
  builder.RegisterCallbackGenericService(&unimplemented);
  return StartServer(builder, listen, address);
}

void SetServing(grpc::Server& server, const std::string& service, bool serving) {
  grpc::HealthCheckServiceInterface* health = server.GetHealthCheckService();
  if (health == nullptr) return;
  health->SetServingStatus(service, serving);
  health->SetServingStatus("", serving);
}

}  // namespace tributary
