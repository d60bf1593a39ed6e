#include "process/rpc_metrics.h"

#include <string>
#include <utility>
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

void AddSecurityMetrics(const std::shared_ptr<RpcSecurity>& security, MetricRegistry& registry) {
  registry.AddSource([security](std::vector<MetricSample>& samples) {
    const auto add = [&](const MetricSpec& spec, std::vector<std::string> labels, double value) {
      samples.push_back({&spec, std::move(labels), value, {}});
    };
    for (const MethodRule& rule : kMethodRules) {
      if (rule.server != security->self()) continue;
      const PeerAccess::Refusals& refusals = security->access().refusals(rule.method);
      const std::string name(rule.name());
      add(metrics::kRpcRefusedCalls, {name, "unauthenticated"}, static_cast<double>(refusals.unauthenticated));
      add(metrics::kRpcRefusedCalls, {name, "permission_denied"}, static_cast<double>(refusals.permission_denied));
    }
    if (security->proof() != PeerProof::kTls) return;
    add(metrics::kRpcTlsHandshakes, {}, static_cast<double>(*security->access().num_handshakes()));
    if (const auto expiry = security->NotAfterUnixS(); expiry.has_value()) {
      add(metrics::kTlsNotAfter, {}, static_cast<double>(*expiry));
    }
  });
}

}  // namespace tributary
