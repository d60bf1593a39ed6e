#include "telemetry/metrics_doc.h"

#include "fmt/format.h"
#include "telemetry/metric_names.h"

namespace tributary {
namespace {

struct ScopeTitle {
  MetricScope scope;
  std::string_view title;
};
constexpr ScopeTitle kScopes[] = {
    {MetricScope::kAll, "Every process"},
    {MetricScope::kDataPlane, "GPU worker and CPU attention service: the data plane"},
    {MetricScope::kCoordinator, "Coordinator"},
    {MetricScope::kGpuWorker, "GPU worker"},
    {MetricScope::kCpuAttention, "CPU attention service"},
};

std::string_view TypeName(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "";
}

std::string LabelList(const MetricSpec& spec) {
  std::string list;
  for (size_t i = 0; i < spec.num_labels(); ++i) {
    list += fmt::format("{}`{}`", i == 0 ? "" : ", ", spec.label_names[i]);
  }
  return list;
}

}  // namespace

std::string MetricsMarkdown() {
  std::string text =
      "# Metrics\n\n"
      "Generated from `telemetry/metric_names.h` by `./dev docs`; do not edit. Each process serves "
      "these at\n"
      "`http://HOST:PORT/metrics` (flag `--metrics-listen`).\n";
  for (const ScopeTitle& scope : kScopes) {
    text += fmt::format("\n## {}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n", scope.title);
    for (const MetricSpec* spec : kAllMetrics) {
      if (spec->scope != scope.scope) continue;
      text += fmt::format("| `{}` | {} | {} | {} |\n", spec->name, TypeName(spec->type), LabelList(*spec), spec->help);
    }
  }
  text += "\nBuckets of `_seconds` histograms (s):";
  for (const double bound : kSecondsBuckets) text += fmt::format(" {}", bound);
  text += ".\nBuckets of shares:";
  for (const double bound : kShareBuckets) text += fmt::format(" {}", bound);
  text += ".\nBuckets of the others:";
  for (const double bound : kCountBuckets) text += fmt::format(" {}", bound);
  text += ".\n";
  return text;
}

}  // namespace tributary
