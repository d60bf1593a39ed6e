// Serves a registry's metrics as Prometheus text over HTTP at /metrics.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "process/http_listener.h"
#include "telemetry/metrics.h"

namespace tributary {

class MetricsEndpoint {
 public:
  // `listen`: "host:port"; port 0 takes a free one (see address()). INVALID_ARGUMENT: not of that form; UNAVAILABLE:
  // the port is taken or the host is not this machine's. Both name --metrics-listen. `registry` outlives the endpoint.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(std::string_view listen,
                                                                const MetricRegistry& registry);

  // "host:port" with the port that was taken.
  const std::string& address() const { return listener_->address(); }

 private:
  explicit MetricsEndpoint(std::unique_ptr<HttpListener> listener) : listener_(std::move(listener)) {}

  std::unique_ptr<HttpListener> listener_;
};

}  // namespace tributary
