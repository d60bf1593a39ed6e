// The process_* metrics of this process, read from /proc when metrics are collected.
#pragma once

#include "telemetry/metrics.h"

namespace tributary {

void AddProcessMetrics(MetricRegistry& registry);

}  // namespace tributary
