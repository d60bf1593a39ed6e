// A data plane's totals as metrics: the same five on every process that has a data plane.
#pragma once

#include "telemetry/metrics.h"

namespace tributary {

// Handles resolved at start; default-constructed they do nothing. Thread-compatible.
struct TransportMetrics {
  TransportMetrics() = default;
  explicit TransportMetrics(MetricRegistry& registry);

  // `Totals` is DataPlaneCounters (transport/data_plane.h), which this layer may not know.
  template <typename Totals>
  void AdvanceTo(const Totals& totals) {
    bytes_sent.AdvanceTo(static_cast<double>(totals.bytes_sent));
    bytes_received.AdvanceTo(static_cast<double>(totals.bytes_received));
    frames_sent.AdvanceTo(static_cast<double>(totals.frames_sent));
    frames_received.AdvanceTo(static_cast<double>(totals.frames_received));
    endpoint_errors.AdvanceTo(static_cast<double>(totals.endpoint_errors));
  }

  Counter bytes_sent, bytes_received, frames_sent, frames_received, endpoint_errors;
};

}  // namespace tributary
