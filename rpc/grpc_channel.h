// gRPC settings that both ends of every connection in the house share.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "grpcpp/server_builder.h"

namespace tributary {

// A plaintext channel with keepalive (10 s, 3 s), quick reconnects, and connections of its own. Prompts fit.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

// Health service for every server; gRPC's own log lines only if GRPC_VERBOSITY asks for them, since every error also
// reaches us as a status. Call before the first server of the process is built; again does no harm.
void InitGrpc();

// Accepts those keepalives, allows prompts, and takes its port alone (no SO_REUSEPORT).
void ConfigureServer(grpc::ServerBuilder& builder);

// Listens on "host:port" (port 0: a free one) and starts. `address` becomes "host:port" as it is.
// UNAVAILABLE if the port is taken or the host is not this machine's.
absl::StatusOr<std::unique_ptr<grpc::Server>> StartServer(grpc::ServerBuilder& builder, const std::string& listen,
                                                          std::string* address);

// A server of grpc.health.v1 alone, for a process that serves nothing else.
absl::StatusOr<std::unique_ptr<grpc::Server>> StartHealthServer(const std::string& listen, std::string* address);

// Sets the health of the whole server and of one service, e.g. "tributary.v1.Coordinator".
void SetServing(grpc::Server& server, const std::string& service, bool serving);

}  // namespace tributary
