#include "telemetry/process_collector.h"

#include <chrono>

#include "gtest/gtest.h"

namespace tributary {
namespace {

double Value(const MetricRegistry& registry, const MetricSpec& spec) {
  for (const MetricSample& sample : registry.Collect()) {
    if (sample.spec == &spec) return sample.value;
  }
  ADD_FAILURE() << spec.name << " is not collected";
  return 0;
}

TEST(ProcessCollectorTest, ValuesAreThoseOfThisProcess) {
  MetricRegistry registry;
  AddProcessMetrics(registry);
  const double now_s = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  EXPECT_GE(Value(registry, metrics::kProcessOpenFds), 3);
  EXPECT_GT(Value(registry, metrics::kProcessResidentMemory), 1e6);
  EXPECT_NEAR(Value(registry, metrics::kProcessStartTime), now_s, 600);

  const double before_s = Value(registry, metrics::kProcessCpuSeconds);
  volatile double sink = 0;
  while (Value(registry, metrics::kProcessCpuSeconds) < before_s + 0.01) sink = sink + 1;
  EXPECT_GT(Value(registry, metrics::kProcessCpuSeconds), before_s);
}

}  // namespace
}  // namespace tributary
