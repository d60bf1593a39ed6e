// What the loop around the engine does when its device breaks.
#include "gpu_worker/engine/engine_loop.h"

#include <atomic>
#include <future>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/tiny_device.h"
#include "transport/inproc/inproc_network.h"

namespace tributary {
namespace {

class BreakableDevice final : public TinyDevice {
 public:
  using TinyDevice::TinyDevice;
  absl::Status status() const override { return broken.load() ? absl::InternalError("GPU 7 broke") : absl::OkStatus(); }
  std::atomic<bool> broken{false};
};

class NoEvents final : public EngineEvents {
 public:
  void OnPrefillProgress(SequenceId, uint32_t, uint32_t, double) override {}
  void OnTokens(const SequenceTokens&) override {}
  void OnStepDone(StepId, std::span<const SequenceTokens>, double) override {}
  void OnEnded(SequenceId, const absl::Status&, const std::string&, const SequenceSummary&) override {}
};

class NoNodes final : public BlockingConnector {
 public:
  absl::StatusOr<NodeSession> Connect(const NodeEndpoint&, const TransportInfo&) override {
    return absl::UnavailableError("there are no nodes");
  }
};

TEST(EngineLoopTest, ABrokenDeviceIsReportedOnce) {
  const TinyModel model;
  RealClock clock;
  BreakableDevice device(model, {.max_batch = 2, .resident_pool_bytes = 1 << 20});
  InprocNetwork network(1, &clock);
  const std::unique_ptr<DataPlane> plane = network.Create("worker");
  NoEvents events;
  NoNodes nodes;
  EngineOptions options;
  options.model = {.shape = model.shape, .num_layers = model.num_layers, .vocab_size = model.vocab_size};
  options.softmax_scale = model.softmax_scale();
  const auto engine = *DecodeEngine::Create(options, &device, plane.get(), &nodes, &clock, &events);
  std::atomic<int> num_reports{0};
  std::promise<std::string> reported;
  EngineLoop loop(engine.get(), &device, plane.get(), &clock, [&](const absl::Status& status) {
    if (++num_reports == 1) reported.set_value(std::string(status.message()));
  });
  loop.Start();
  const auto run_command = [&] {
    std::promise<void> done;
    loop.PostStopAll([&] { done.set_value(); });
    done.get_future().wait();
  };
  run_command();
  EXPECT_EQ(num_reports, 0);
  device.broken = true;
  run_command();
  EXPECT_EQ(reported.get_future().get(), "GPU 7 broke");
  run_command();
  run_command();
  loop.Stop();
  EXPECT_EQ(num_reports, 1);
}

}  // namespace
}  // namespace tributary
