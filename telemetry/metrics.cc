#include "telemetry/metrics.h"

#include <algorithm>

#include "base/check.h"

namespace tributary {

void Histogram::Observe(double value) {
  if (cell_ == nullptr) return;
  const std::span<const double> bounds = cell_->spec->buckets;
  // A bucket's upper bound is inclusive.
  const size_t bucket = std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin();
  cell_->buckets[bucket].fetch_add(1, std::memory_order_relaxed);
  cell_->value.fetch_add(value, std::memory_order_relaxed);
}

uint64_t Histogram::count() const {
  if (cell_ == nullptr) return 0;
  uint64_t count = 0;
  for (size_t i = 0; i <= cell_->spec->buckets.size(); ++i) {
    count += cell_->buckets[i].load(std::memory_order_relaxed);
  }
  return count;
}

Counter MetricRegistry::counter(const MetricSpec& spec, LabelValues labels) {
  return Counter(Cell(spec, MetricType::kCounter, labels));
}

Gauge MetricRegistry::gauge(const MetricSpec& spec, LabelValues labels) {
  return Gauge(Cell(spec, MetricType::kGauge, labels));
}

Histogram MetricRegistry::histogram(const MetricSpec& spec, LabelValues labels) {
  return Histogram(Cell(spec, MetricType::kHistogram, labels));
}

void MetricRegistry::AddSource(Source source) {
  MutexLock lock(&mutex_);
  sources_.push_back(std::move(source));
}

internal::MetricCell* MetricRegistry::Cell(const MetricSpec& spec, MetricType type, LabelValues labels) {
  TRIBUTARY_CHECK(spec.type == type);
  TRIBUTARY_CHECK_EQ(labels.size(), spec.num_labels());
  MutexLock lock(&mutex_);
  for (const auto& cell : cells_) {
    if (cell->spec->name == spec.name && std::ranges::equal(cell->label_values, labels)) return cell.get();
  }
  auto cell = std::make_unique<internal::MetricCell>();
  cell->spec = &spec;
  cell->label_values.assign(labels.begin(), labels.end());
  if (type == MetricType::kHistogram) {
    TRIBUTARY_CHECK(!spec.buckets.empty());
    cell->buckets = std::make_unique<std::atomic<uint64_t>[]>(spec.buckets.size() + 1);
  }
  cells_.push_back(std::move(cell));
  return cells_.back().get();
}

std::vector<MetricSample> MetricRegistry::Collect() const {
  std::vector<MetricSample> samples;
  MutexLock lock(&mutex_);
  for (const auto& cell : cells_) {
    MetricSample sample{cell->spec, cell->label_values, cell->value.load(std::memory_order_relaxed), {}};
    if (cell->spec->type == MetricType::kHistogram) {
      for (size_t i = 0; i <= cell->spec->buckets.size(); ++i) {
        sample.bucket_counts.push_back(cell->buckets[i].load(std::memory_order_relaxed));
      }
    }
    samples.push_back(std::move(sample));
  }
  for (const Source& source : sources_) source(samples);
  std::ranges::stable_sort(samples, {}, [](const MetricSample& sample) { return sample.spec->name; });
  return samples;
}

}  // namespace tributary
