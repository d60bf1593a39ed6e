// docs/metrics.md, generated from the table in metric_names.h.
#pragma once

#include <string>

namespace tributary {

std::string MetricsMarkdown();

}  // namespace tributary
