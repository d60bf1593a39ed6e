// What a step makes of a device that runs ahead: its own times, as metrics and in the trace, and whom it tells that no
// partials will come. (Exchanges with nodes: tests/sim.)
#include "gpu_worker/step/decode_step.h"

#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/temp_dir.h"
#include "tests/testutil/tiny_device.h"

namespace tributary {
namespace {

using ::testing::DoubleNear;
using ::testing::HasSubstr;

class AheadDevice final : public TinyDevice {
 public:
  using TinyDevice::TinyDevice;
  void BeginStep(std::span<const DecodeRow> rows) override {
    may_have_partials = false;
    for (const DecodeRow& row : rows) may_have_partials |= row.may_have_partials;
    TinyDevice::BeginStep(rows);
  }
  DeviceStepTimes step_times() const override { return times; }
  absl::Status step_status() const override { return step; }

  bool may_have_partials = false;
  DeviceStepTimes times;
  absl::Status step;
};

class DecodeStepTest : public ::testing::Test {
 protected:
  static constexpr int64_t kMs = kNsPerMs;

  DecodeStepTest()
      : device_({}, {.max_batch = 2, .resident_pool_bytes = 1 << 20}),
        step_({.shape = TinyModel().shape,
               .num_layers = TinyModel().num_layers,
               .softmax_scale = TinyModel().softmax_scale()},
              &device_, nullptr, nullptr, &clock_, &metrics_, &trace_) {
    row_.device = {.token = 1, .resident = *device_.ReserveResident({4, DType::kF32})};
    row_.device.attend[0] = {0, 1};
    row_.context_tokens = row_.resident_tokens = 1;
  }
  void RunAt(int64_t now_ns) {
    clock_.AdvanceNs(now_ns - clock_.NowNs());
    row_.status = absl::OkStatus();
    step_.Run({&row_, 1}, kNsPerS);
  }

  ManualClock clock_;
  MetricRegistry registry_;
  EngineMetrics metrics_{registry_};
  StepTrace trace_{100};
  AheadDevice device_;
  DecodeStep step_;
  StepRow row_;
};

TEST_F(DecodeStepTest, ADeviceThatRunsAheadSaysHowLongItWaited) {
  const DeviceSpan spans[] = {{"gpu_local_attention", 0, -9 * kMs, -6 * kMs}, {"gpu_remote_wait", 0, -6 * kMs, 0}};
  device_.times = {.step_ns = 9 * kMs, .remote_wait_ns = 6 * kMs, .spans = spans};
  RunAt(100 * kMs);
  EXPECT_EQ(step_.exposed_wait_ns(), 6 * kMs);
  EXPECT_THAT(metrics_.gpu_busy.value(), DoubleNear(3e-3, 1e-9));
  EXPECT_THAT(metrics_.gpu_remote_wait.value(), DoubleNear(6e-3, 1e-9));
  RunAt(110 * kMs);  // 10 ms after the first step's end, of which the device worked 3
  EXPECT_THAT(metrics_.gpu_idle.value(), DoubleNear(0.7, 1e-9));

  TempDir dir;
  ASSERT_TRUE(trace_.WriteChromeTrace(dir.path() / "trace.json", "worker").ok());
  std::stringstream text;
  text << std::ifstream(dir.path() / "trace.json").rdbuf();
  EXPECT_THAT(text.str(), HasSubstr("gpu_remote_wait"));
  EXPECT_THAT(text.str(), HasSubstr("\"tid\":" + std::to_string(kDeviceLane)));
  EXPECT_THAT(text.str(),
              HasSubstr("\"ts\":94000"));  // the wait began 6 ms before the end at 100 ms
}

TEST_F(DecodeStepTest, ADeviceOnTheCallersThreadHasNoTimes) {
  RunAt(100 * kMs);
  RunAt(110 * kMs);
  EXPECT_EQ(step_.exposed_wait_ns(), 0);
  EXPECT_EQ(metrics_.gpu_busy.value(), 0);
  EXPECT_EQ(metrics_.gpu_idle.value(), 0);
}

TEST_F(DecodeStepTest, RowsWithoutRemoteTokensWantNoExchange) {
  device_.may_have_partials = true;
  RunAt(100 * kMs);
  EXPECT_FALSE(device_.may_have_partials);
  EXPECT_TRUE(row_.status.ok());
}

TEST_F(DecodeStepTest, AStepThatTheDeviceGaveUpFailsItsRows) {
  device_.step = absl::DeadlineExceededError("waited too long");
  RunAt(100 * kMs);
  EXPECT_EQ(row_.status, device_.step);
  EXPECT_EQ(row_.failed_node, kNoNode);
}

}  // namespace
}  // namespace tributary
