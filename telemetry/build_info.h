// What was built, and the state a process is in, as metrics and as text.
#pragma once

#include <array>
#include <string_view>

#include "telemetry/metrics.h"

namespace tributary {

// Versions of libraries are passed in, since only their own folders may include them; "" where
// there is none.
void AddBuildInfo(MetricRegistry& registry, std::string_view ucx_version, std::string_view grpc_version);

enum class ServiceState { kStarting, kServing, kDraining };

// tributary_service_state: exactly one state is 1. Thread-safe; one writer at a time.
class ServiceStateMetric {
 public:
  ServiceStateMetric() = default;
  explicit ServiceStateMetric(MetricRegistry& registry);
  void Set(ServiceState state);

 private:
  std::array<Gauge, 3> gauges_;
};

}  // namespace tributary
