#include "telemetry/metrics.h"

#include <set>
#include <thread>

#include "base/version.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "telemetry/build_info.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;

const MetricSample* Find(const std::vector<MetricSample>& samples, const MetricSpec& spec,
                         const std::vector<std::string>& labels = {}) {
  for (const MetricSample& sample : samples) {
    if (sample.spec == &spec && sample.label_values == labels) return &sample;
  }
  return nullptr;
}

TEST(MetricsTest, DefaultHandlesDoNothing) {
  Counter counter;
  Gauge gauge;
  Histogram histogram;
  counter.Increment();
  counter.AdvanceTo(7);
  gauge.Set(3);
  gauge.Add(1);
  histogram.Observe(0.5);
  EXPECT_EQ(counter.value(), 0);
  EXPECT_EQ(gauge.value(), 0);
  EXPECT_EQ(histogram.count(), 0);
}

TEST(MetricsTest, SameSpecAndLabelsShareOneSeries) {
  MetricRegistry registry;
  Counter a = registry.counter(metrics::kRequests, {"ok"});
  Counter b = registry.counter(metrics::kRequests, {"ok"});
  Counter other = registry.counter(metrics::kRequests, {"failed"});
  a.Increment();
  b.Increment(2);
  EXPECT_EQ(a.value(), 3);
  EXPECT_EQ(other.value(), 0);
  EXPECT_EQ(registry.Collect().size(), 2);
}

TEST(MetricsTest, AdvanceToNeverLowers) {
  MetricRegistry registry;
  Counter counter = registry.counter(metrics::kTransportBytes, {"sent"});
  counter.AdvanceTo(10);
  counter.AdvanceTo(4);
  EXPECT_EQ(counter.value(), 10);
}

TEST(MetricsTest, HistogramBoundsAreInclusiveAndTheLastBucketTakesTheRest) {
  MetricRegistry registry;
  Histogram histogram = registry.histogram(metrics::kBatchSize);
  for (const double value : {1.0, 2.0, 3.0, 256.0, 257.0}) histogram.Observe(value);
  const auto samples = registry.Collect();
  const MetricSample* sample = Find(samples, metrics::kBatchSize);
  ASSERT_NE(sample, nullptr);
  EXPECT_THAT(sample->bucket_counts, ElementsAre(1, 1, 1, 0, 0, 0, 0, 0, 1, 1));
  EXPECT_EQ(sample->value, 519);
  EXPECT_EQ(histogram.count(), 5);
}

TEST(MetricsTest, ConcurrentUseLosesNothing) {
  MetricRegistry registry;
  Counter counter = registry.counter(metrics::kGeneratedTokens);
  Histogram histogram = registry.histogram(metrics::kDecodeStepDuration);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) {
        counter.Increment();
        histogram.Observe(1.0);
      }
    });
  }
  for (int i = 0; i < 100; ++i) registry.Collect();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter.value(), 40'000);
  EXPECT_EQ(histogram.count(), 40'000);
  EXPECT_EQ(histogram.sum(), 40'000);
}

TEST(MetricsTest, CollectKeepsSeriesOfOneMetricTogether) {
  MetricRegistry registry;
  registry.counter(metrics::kRequests, {"ok"});
  registry.counter(metrics::kGeneratedTokens);
  registry.counter(metrics::kRequests, {"failed"});
  std::set<std::string_view> finished;
  std::string_view current;
  for (const MetricSample& sample : registry.Collect()) {
    if (sample.spec->name == current) continue;
    EXPECT_TRUE(finished.insert(sample.spec->name).second) << sample.spec->name << " is split";
    current = sample.spec->name;
  }
}

TEST(MetricsDeathTest, WrongLabelsOrTypeAreBugs) {
  MetricRegistry registry;
  EXPECT_DEATH(registry.counter(metrics::kRequests), "labels.size");
  EXPECT_DEATH(registry.gauge(metrics::kRequests, {"ok"}), "spec.type == type");
}

TEST(MetricNamesTest, TableFollowsTheRules) {
  std::set<std::string_view> names;
  for (const MetricSpec* spec : kAllMetrics) {
    const std::string name(spec->name);
    SCOPED_TRACE(name);
    EXPECT_TRUE(names.insert(spec->name).second) << "twice in the table";
    EXPECT_TRUE(name.starts_with("tributary_") || name.starts_with("process_"));
    EXPECT_EQ(name.ends_with("_total"), spec->type == MetricType::kCounter);
    EXPECT_EQ(spec->buckets.empty(), spec->type != MetricType::kHistogram);
    EXPECT_EQ(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_"), std::string::npos);
    for (const char* unit : {"_ms", "_us", "_ns", "_mb", "_percent"}) EXPECT_FALSE(name.ends_with(unit));
    EXPECT_TRUE(spec->help.ends_with(".")) << "help is a sentence";
  }
}

TEST(BuildInfoTest, OneStateAtATime) {
  MetricRegistry registry;
  AddBuildInfo(registry, "1.13.1", "1.51.1");
  ServiceStateMetric state(registry);
  state.Set(ServiceState::kDraining);
  const auto samples = registry.Collect();
  EXPECT_EQ(Find(samples, metrics::kServiceState, {"draining"})->value, 1);
  EXPECT_EQ(Find(samples, metrics::kServiceState, {"starting"})->value, 0);
  EXPECT_EQ(Find(samples, metrics::kServiceState, {"serving"})->value, 0);
  EXPECT_NE(Find(samples, metrics::kBuildInfo, {std::string(Version()), std::string(Revision()), "1.13.1", "1.51.1"}),
            nullptr);
}

}  // namespace
}  // namespace tributary
