// A registry's metrics in Prometheus' text format.
#pragma once

#include <string>

#include "telemetry/metrics.h"

namespace tributary {

// Thread-safe.
std::string PrometheusText(const MetricRegistry& registry);

}  // namespace tributary
