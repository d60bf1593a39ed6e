#include "telemetry/transport_metrics.h"

#include "telemetry/metric_names.h"

namespace tributary {

TransportMetrics::TransportMetrics(MetricRegistry& registry)
    : bytes_sent(registry.counter(metrics::kTransportBytes, {"sent"})),
      bytes_received(registry.counter(metrics::kTransportBytes, {"received"})),
      frames_sent(registry.counter(metrics::kTransportFrames, {"sent"})),
      frames_received(registry.counter(metrics::kTransportFrames, {"received"})),
      endpoint_errors(registry.counter(metrics::kTransportEndpointErrors)) {}

}  // namespace tributary
