#include "telemetry/prometheus_text.h"

#include <limits>
#include <vector>

#include "prometheus/metric_family.h"
#include "prometheus/text_serializer.h"

namespace tributary {
namespace {

prometheus::MetricType PrometheusType(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return prometheus::MetricType::Counter;
    case MetricType::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricType::kHistogram:
      return prometheus::MetricType::Histogram;
  }
  return prometheus::MetricType::Untyped;
}

prometheus::ClientMetric PrometheusMetric(const MetricSample& sample) {
  prometheus::ClientMetric metric;
  for (size_t i = 0; i < sample.label_values.size(); ++i) {
    metric.label.push_back({std::string(sample.spec->label_names[i]), sample.label_values[i]});
  }
  if (sample.spec->type == MetricType::kCounter) metric.counter.value = sample.value;
  if (sample.spec->type == MetricType::kGauge) metric.gauge.value = sample.value;
  if (sample.spec->type != MetricType::kHistogram) return metric;
  uint64_t cumulative = 0;
  for (size_t i = 0; i < sample.bucket_counts.size(); ++i) {
    cumulative += sample.bucket_counts[i];
    const bool last = i + 1 == sample.bucket_counts.size();
    metric.histogram.bucket.push_back(
        {cumulative, last ? std::numeric_limits<double>::infinity() : sample.spec->buckets[i]});
  }
  metric.histogram.sample_count = cumulative;
  metric.histogram.sample_sum = sample.value;
  return metric;
}

}  // namespace

std::string PrometheusText(const MetricRegistry& registry) {
  std::vector<prometheus::MetricFamily> families;
  for (const MetricSample& sample : registry.Collect()) {
    if (families.empty() || families.back().name != sample.spec->name) {
      families.push_back(
          {std::string(sample.spec->name), std::string(sample.spec->help), PrometheusType(sample.spec->type), {}});
    }
    families.back().metric.push_back(PrometheusMetric(sample));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace tributary
