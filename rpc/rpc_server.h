// A gRPC server of the house: services, gRPC's health service, and a listener that a burst of connections does not
// leave deaf (tcp_acceptor.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "rpc/rpc_options.h"

namespace grpc {
class Service;
}

namespace tributary {

struct ConnectionCounters;  // tcp_acceptor.h

// The version of the gRPC library that this was built with, e.g. "1.51.1".
std::string_view GrpcVersion();

// Thread-safe.
class RpcServer {
 public:
  // Listens on "host:port" (port 0: a free one) and serves at once. `services` (not owned, callback or synchronous;
  // none: health alone) outlive the server. INVALID_ARGUMENT: not host:port; UNAVAILABLE: the port is taken, or the
  // host is not this machine's; FAILED_PRECONDITION: options.loopback_only, and the address is open to other hosts. All
  // name --listen.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(std::string_view listen,
                                                          const std::vector<grpc::Service*>& services,
                                                          const RpcOptions& options = {});
  ~RpcServer();  // as Shutdown(0)

  // "host:port" with the port that was taken.
  const std::string& address() const;

  // grpc.health.v1: of the whole server, and of one service ("tributary.v1.Coordinator") if it is named.
  void SetServing(bool serving, const std::string& service = "");

  // Takes no connection any more, and ends the calls that still run after `grace_ns`. Returns when all have ended.
  void Shutdown(int64_t grace_ns);

  // May outlive the server.
  std::shared_ptr<const ConnectionCounters> connections() const;

 private:
  struct Impl;
  explicit RpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tributary
