#include "process/rpc_metrics.h"

#include <vector>

#include "rpc/tcp_acceptor.h"

namespace tributary {

void AddRpcMetrics(const RpcServer& server, MetricRegistry& registry) {
  registry.AddSource([counters = server.connections()](std::vector<MetricSample>& samples) {
    const auto add = [&](const char* outcome, uint64_t count) {
      samples.push_back({&metrics::kRpcConnections, {outcome}, static_cast<double>(count), {}});
    };
    add("accepted", counters->accepted.load(std::memory_order_relaxed));
    add("refused", counters->refused.load(std::memory_order_relaxed));
  });
}

}  // namespace tributary
