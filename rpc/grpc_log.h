// gRPC's own log, as lines of ours.
#pragma once

#include <string_view>

namespace tributary {

// Sends what gRPC logs to the process's log: its errors as warnings, at most five a second, the rest counted. Its
// other levels come only if GRPC_VERBOSITY asks for them. MakeChannel() and RpcServer call it; again does no harm.
void RouteGrpcLog();

namespace internal {
// One line of gRPC's, at its level: what RouteGrpcLog() installs, for its test.
void LogGrpcLine(bool is_error, std::string_view file, int line, std::string_view message);
}  // namespace internal

}  // namespace tributary
