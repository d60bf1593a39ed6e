// The metrics of a gRPC server: its connections, and whom it refuses.
#pragma once

#include <memory>

#include "rpc/rpc_server.h"
#include "rpc/security/rpc_security.h"
#include "telemetry/metrics.h"

namespace tributary {

// The registry may outlive the server.
void AddRpcMetrics(const RpcServer& server, MetricRegistry& registry);
// Refused calls of the methods that the process serves, TLS handshakes, and when its certificate expires.
void AddSecurityMetrics(const std::shared_ptr<RpcSecurity>& security, MetricRegistry& registry);

}  // namespace tributary
