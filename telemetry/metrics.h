// Metrics: handles are looked up once, at start; using one is an atomic add, without lock,
// allocation or system call.
//
//   struct FooMetrics {                       // foo_metrics.h
//     explicit FooMetrics(MetricRegistry& registry)
//         : requests_ok(registry.counter(metrics::kRequests, {"ok"})) {}
//     Counter requests_ok;
//   };
//
// A default-constructed handle does nothing, so code under test needs no registry.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mutex.h"
#include "telemetry/metric_names.h"

namespace tributary {

namespace internal {

// One time series. Lives as long as its registry.
struct MetricCell {
  const MetricSpec* spec = nullptr;
  std::vector<std::string> label_values;
  std::atomic<double> value{0};                      // counters and gauges; a histogram's sum
  std::unique_ptr<std::atomic<uint64_t>[]> buckets;  // histograms: buckets.size() + 1, the last is +Inf
};

}  // namespace internal

// Thread-safe, as are Gauge and Histogram. Copyable; must not outlive its registry.
class Counter {
 public:
  Counter() = default;
  // REQUIRES: amount >= 0.
  void Increment(double amount = 1) {
    if (cell_ != nullptr) cell_->value.fetch_add(amount, std::memory_order_relaxed);
  }
  // Serves totals that are counted elsewhere (e.g. DataPlaneCounters): raises the counter to `total`, never lowers it.
  // One caller at a time.
  void AdvanceTo(double total) {
    if (cell_ != nullptr && total > cell_->value.load(std::memory_order_relaxed)) {
      cell_->value.store(total, std::memory_order_relaxed);
    }
  }
  double value() const { return cell_ == nullptr ? 0 : cell_->value.load(std::memory_order_relaxed); }

 private:
  friend class MetricRegistry;
  explicit Counter(internal::MetricCell* cell) : cell_(cell) {}
  internal::MetricCell* cell_ = nullptr;
};

class Gauge {
 public:
  Gauge() = default;
  void Set(double value) {
    if (cell_ != nullptr) cell_->value.store(value, std::memory_order_relaxed);
  }
  void Add(double amount) {
    if (cell_ != nullptr) cell_->value.fetch_add(amount, std::memory_order_relaxed);
  }
  double value() const { return cell_ == nullptr ? 0 : cell_->value.load(std::memory_order_relaxed); }

 private:
  friend class MetricRegistry;
  explicit Gauge(internal::MetricCell* cell) : cell_(cell) {}
  internal::MetricCell* cell_ = nullptr;
};

class Histogram {
 public:
  Histogram() = default;
  // Seconds, or a count, as the metric's name says.
  void Observe(double value);
  uint64_t count() const;
  double sum() const { return cell_ == nullptr ? 0 : cell_->value.load(std::memory_order_relaxed); }

 private:
  friend class MetricRegistry;
  explicit Histogram(internal::MetricCell* cell) : cell_(cell) {}
  internal::MetricCell* cell_ = nullptr;
};

// The value of one time series at one moment.
struct MetricSample {
  const MetricSpec* spec = nullptr;
  std::vector<std::string> label_values;  // in the order of spec->label_names
  double value = 0;                       // counters and gauges; a histogram's sum
  std::vector<uint64_t> bucket_counts;    // histograms: per bucket (not cumulative), the last is +Inf
};

// Owns the time series of one process. Thread-safe; looking up takes a lock, so do it at start.
class MetricRegistry {
 public:
  using LabelValues = std::initializer_list<std::string_view>;
  // Values computed when metrics are read, e.g. from /proc. Called with the registry's lock held.
  using Source = std::function<void(std::vector<MetricSample>& samples)>;

  MetricRegistry() = default;
  MetricRegistry(const MetricRegistry&) = delete;
  MetricRegistry& operator=(const MetricRegistry&) = delete;

  // `labels`: one value per label name, in the order of the spec. The same spec and labels give the
  // same time series. A wrong type or number of labels is a bug and dies.
  Counter counter(const MetricSpec& spec, LabelValues labels = {});
  Gauge gauge(const MetricSpec& spec, LabelValues labels = {});
  Histogram histogram(const MetricSpec& spec, LabelValues labels = {});

  void AddSource(Source source);

  // All time series, those of one metric next to each other.
  std::vector<MetricSample> Collect() const;

 private:
  internal::MetricCell* Cell(const MetricSpec& spec, MetricType type, LabelValues labels);

  mutable Mutex mutex_;
  std::vector<std::unique_ptr<internal::MetricCell>> cells_ ABSL_GUARDED_BY(mutex_);
  std::vector<Source> sources_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tributary
