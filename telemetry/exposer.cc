#include "telemetry/exposer.h"

#include <charconv>
#include <exception>
#include <optional>
#include <vector>

#include "fmt/format.h"
#include "prometheus/collectable.h"
#include "prometheus/exposer.h"
#include "prometheus/metric_family.h"

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

class RegistryCollectable final : public prometheus::Collectable {
 public:
  explicit RegistryCollectable(const MetricRegistry& registry) : registry_(registry) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    for (const MetricSample& sample : registry_.Collect()) {
      if (families.empty() || families.back().name != sample.spec->name) {
        families.push_back({std::string(sample.spec->name),
                            std::string(sample.spec->help),
                            PrometheusType(sample.spec->type),
                            {}});
      }
      families.back().metric.push_back(PrometheusMetric(sample));
    }
    return families;
  }

 private:
  const MetricRegistry& registry_;
};

// The port of "host:port", or nothing.
std::optional<uint16_t> PortOf(std::string_view listen) {
  const size_t colon = listen.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  uint16_t port = 0;
  const char* end = listen.data() + listen.size();
  const auto [stop, error] = std::from_chars(listen.data() + colon + 1, end, port);
  if (error != std::errc() || stop != end) return std::nullopt;
  return port;
}

}  // namespace

struct MetricsExposer::Server {
  Server(const std::string& listen, const MetricRegistry& registry)
      : collectable(std::make_shared<RegistryCollectable>(registry)), exposer(listen, 1) {
    exposer.RegisterCollectable(collectable);
  }
  std::shared_ptr<RegistryCollectable> collectable;
  prometheus::Exposer exposer;
};

MetricsExposer::MetricsExposer(std::unique_ptr<Server> server, std::string address)
    : server_(std::move(server)), address_(std::move(address)) {}

MetricsExposer::~MetricsExposer() = default;

absl::StatusOr<std::unique_ptr<MetricsExposer>> MetricsExposer::Start(
    std::string_view listen, const MetricRegistry& registry) {
  if (!PortOf(listen).has_value()) {
    return absl::InvalidArgumentError(fmt::format(
        "metrics address '{}' is not host:port; use for example 127.0.0.1:9100, or port 0 for any",
        listen));
  }
  std::unique_ptr<Server> server;
  try {
    server = std::make_unique<Server>(std::string(listen), registry);
  } catch (const std::exception& error) {  // the library's only way to say that the port is taken
    return absl::UnavailableError(fmt::format(
        "cannot serve metrics on {} ({}); is the port in use? choose another with --metrics-listen",
        listen, error.what()));
  }
  const std::vector<int> ports = server->exposer.GetListeningPorts();
  if (ports.empty() || ports.front() <= 0) {
    return absl::UnavailableError(fmt::format(
        "cannot serve metrics on {}: no port was opened; choose another with --metrics-listen",
        listen));
  }
  std::string address = fmt::format("{}:{}", listen.substr(0, listen.rfind(':')), ports.front());
  return std::unique_ptr<MetricsExposer>(new MetricsExposer(std::move(server), std::move(address)));
}

}  // namespace tributary
