#include "process/metrics_endpoint.h"

#include <utility>

#include "fmt/format.h"
#include "telemetry/prometheus_text.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(std::string_view listen,
                                                                        const MetricRegistry& registry) {
  auto listener = HttpListener::Start(listen, "/metrics", [&registry] { return PrometheusText(registry); });
  if (!listener.ok()) {
    return absl::Status(listener.status().code(),
                        fmt::format("metrics: {} (--metrics-listen)", std::string(listener.status().message())));
  }
  return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(*std::move(listener)));
}

}  // namespace tributary
