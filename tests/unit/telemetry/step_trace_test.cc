#include "telemetry/step_trace.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace tributary {
namespace {

class StepTraceTest : public ::testing::Test {
 protected:
  ~StepTraceTest() override { std::filesystem::remove(path_); }
  nlohmann::json Events() {
    std::ifstream file(path_);
    return nlohmann::json::parse(file).at("traceEvents");
  }
  const std::string path_ =
      std::filesystem::temp_directory_path() / ("step_trace_" + std::to_string(getpid()) + ".json");
};

TEST_F(StepTraceTest, OffRecordsAndWritesNothing) {
  StepTrace trace;
  ManualClock clock;
  { ScopedSpan span(trace, clock, "qkv", 1); }
  EXPECT_FALSE(trace.on());
  EXPECT_EQ(trace.size(), 0);
  EXPECT_TRUE(trace.WriteChromeTrace(path_, "worker").ok());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(StepTraceTest, WritesSpansInMicroseconds) {
  StepTrace trace(8);
  ManualClock clock;
  trace.NameLane(1, "node \"b\"");
  {
    ScopedSpan span(trace, clock, "remote_wait", 42, 3, 1);
    clock.AdvanceNs(2'500);
  }
  ASSERT_TRUE(trace.WriteChromeTrace(path_, "worker").ok());
  const nlohmann::json events = Events();
  ASSERT_EQ(events.size(), 3);
  EXPECT_EQ(events[1].at("args").at("name"), "node \"b\"");
  EXPECT_EQ(events[2].at("name"), "remote_wait");
  EXPECT_EQ(events[2].at("tid"), 1);
  EXPECT_DOUBLE_EQ(events[2].at("dur"), 2.5);
  EXPECT_EQ(events[2].at("args").at("step"), 42);
  EXPECT_EQ(events[2].at("args").at("layer"), 3);
}

TEST_F(StepTraceTest, KeepsTheLatestSpansInOrder) {
  StepTrace trace(3);
  for (uint64_t step = 0; step < 8; ++step) trace.Add({.name = "mlp", .step_id = step});
  EXPECT_EQ(trace.size(), 3);
  EXPECT_EQ(trace.num_dropped(), 5);
  ASSERT_TRUE(trace.WriteChromeTrace(path_, "worker").ok());
  const nlohmann::json events = Events();
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(events[1 + i].at("args").at("step"), 5 + i);
}

TEST_F(StepTraceTest, UnwritablePathIsAnErrorWithThePath) {
  StepTrace trace(1);
  const absl::Status status = trace.WriteChromeTrace("/nonexistent/trace.json", "worker");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(status.message().find("/nonexistent/trace.json"), absl::string_view::npos);
}

}  // namespace
}  // namespace tributary
