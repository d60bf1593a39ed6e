#include "rpc/grpc_channel.h"

#include <utility>
#include <vector>

#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "rpc/grpc_log.h"
#include "rpc/security/call_signer.h"

namespace tributary {
namespace {

int Milliseconds(int64_t ns) { return static_cast<int>(ns / kNsPerMs); }

}  // namespace

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const RpcOptions& options) {
  RouteGrpcLog();
  grpc::ChannelArguments args;
  if (options.keepalive_interval_ns > 0) {
    args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_interval_ns));
    args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_timeout_ns));
    args.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  }
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, Milliseconds(options.initial_backoff_ns));
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, Milliseconds(options.connect_timeout_ns));
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, Milliseconds(options.max_backoff_ns));
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  args.SetMaxSendMessageSize(static_cast<int>(options.max_message_bytes));
  const RpcCredentials& credentials = options.credentials;
  if (!credentials.server_name.empty()) args.SetSslTargetNameOverride(credentials.server_name);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (credentials.secret != nullptr) {
    interceptors.push_back(std::make_unique<CallSigner>(credentials.secret, credentials.self));
  }
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      address, credentials.channel != nullptr ? credentials.channel : grpc::InsecureChannelCredentials(), args,
      std::move(interceptors));
}

}  // namespace tributary
