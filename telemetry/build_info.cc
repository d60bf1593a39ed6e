#include "telemetry/build_info.h"

#include "base/version.h"

namespace tributary {

void AddBuildInfo(MetricRegistry& registry, std::string_view ucx_version, std::string_view grpc_version) {
  registry.gauge(metrics::kBuildInfo, {Version(), Revision(), ucx_version, grpc_version}).Set(1);
}

ServiceStateMetric::ServiceStateMetric(MetricRegistry& registry)
    : gauges_{registry.gauge(metrics::kServiceState, {"starting"}), registry.gauge(metrics::kServiceState, {"serving"}),
              registry.gauge(metrics::kServiceState, {"draining"})} {
  Set(ServiceState::kStarting);
}

void ServiceStateMetric::Set(ServiceState state) {
  for (size_t i = 0; i < gauges_.size(); ++i) gauges_[i].Set(i == static_cast<size_t>(state) ? 1 : 0);
}

}  // namespace tributary
