// The metric of a gRPC server's connections.
#pragma once

#include "rpc/rpc_server.h"
#include "telemetry/metrics.h"

namespace tributary {

// The registry may outlive the server.
void AddRpcMetrics(const RpcServer& server, MetricRegistry& registry);

}  // namespace tributary
