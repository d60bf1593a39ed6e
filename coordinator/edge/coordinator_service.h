// The coordinator's gRPC side: Coordinator (clients) and NodeRegistry (nodes). It turns RPCs into events, carries
// actions out, and decides nothing (coordinator_core.h does).
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/core/coordinator_core.h"
#include "rpc/rpc_server.h"
#include "rpc/security/rpc_security.h"
#include "telemetry/metrics.h"

namespace tributary {

struct CoordinatorServiceOptions {
  CoordinatorConfig core;
  std::string listen = "127.0.0.1:0";
  int64_t heartbeat_interval_ns = 0;  // told to the nodes
  int64_t shard_call_timeout_ns = 0;  // of OpenShard and CloseShard
  std::shared_ptr<RpcSecurity> security = RpcSecurity::Open();
};

// Thread-safe.
class CoordinatorService {
 public:
  // UNAVAILABLE: the port. The registry outlives the service.
  static absl::StatusOr<std::unique_ptr<CoordinatorService>> Start(const CoordinatorServiceOptions& options,
                                                                   MetricRegistry& registry);
  // Ends what is left at once.
  ~CoordinatorService();

  RpcServer& server();
  // "host:port" as it is.
  const std::string& address() const;

  // Takes nothing new (health: NOT_SERVING) and waits for what runs. False if the time was not enough.
  bool Drain(int64_t timeout_ns);

 private:
  struct Impl;
  explicit CoordinatorService(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tributary
