// What the engine makes of a device that samples by itself, gives a step up, or breaks.
#include <random>

#include "base/log.h"
#include "gmock/gmock.h"
#include "gpu_worker/sequence/sampler.h"
#include "gtest/gtest.h"
#include "tests/sim/sim_cluster.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

// Works like a TinyDevice until step `bad_step` ends.
class FaultyDevice final : public TinyDevice {
 public:
  FaultyDevice(const TinyModel& model, const DeviceLimits& limits) : TinyDevice(model, limits) {}

  void BeginStep(std::span<const DecodeRow> rows) override {
    rows_.assign(rows.begin(), rows.end());
    TinyDevice::BeginStep(rows);
  }
  std::span<const float> EndStep() override {
    const std::span<const float> logits = TinyDevice::EndStep();
    step_status_ = status_ = absl::OkStatus();
    if (++num_steps_ == gives_up_in_step) step_status_ = absl::DeadlineExceededError("gave up");
    if (num_steps_ >= breaks_in_step) step_status_ = status_ = absl::InternalError("GPU 7 broke");
    if (!samples_itself) return logits;
    samples_.clear();
    bool wanted = false;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const DeviceSampling& s = rows_[i].sampling;
      const size_t vocab = logits.size() / rows_.size();
      const SampledToken sampled =
          Sample(logits.subspan(i * vocab, vocab), {s.temperature, s.top_k, s.top_p, s.seed}, s.position);
      samples_.push_back({sampled.token, sampled.logprob});
      wanted |= rows_[i].wants_logits;
    }
    num_steps_without_logits += wanted ? 0 : 1;
    return wanted ? logits : std::span<const float>();
  }
  bool samples() const override { return samples_itself; }
  std::span<const DeviceSample> sampled() const override { return samples_; }
  absl::Status step_status() const override { return step_status_; }
  absl::Status status() const override { return status_; }

  bool samples_itself = false;
  int gives_up_in_step = -1;
  int breaks_in_step = 1 << 30;
  int num_steps_without_logits = 0;

 private:
  int num_steps_ = 0;
  std::vector<DecodeRow> rows_;
  std::vector<DeviceSample> samples_;
  absl::Status step_status_, status_;
};

class DeviceFaultsTest : public ::testing::Test {
 protected:
  DeviceFaultsTest() {
    (void)InitLogging("sim", "error");
    options_.seed = seed_;
    options_.observe_logits = false;
    options_.make_device = [this](const DeviceLimits& limits) {
      auto device = std::make_unique<FaultyDevice>(options_.model, limits);
      device_ = device.get();
      return device;
    };
  }
  SimRequest Request() {
    SimRequest request;
    request.prompt.resize(60);
    for (uint32_t& token : request.prompt) token = RandomInt<uint32_t>(random_, 0, 60);
    request.max_tokens = 12;
    request.layout = {.sink_tokens = 4, .window_tokens = 16, .block_tokens = 8};
    return request;
  }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  SimOptions options_;
  FaultyDevice* device_ = nullptr;
};

TEST_F(DeviceFaultsTest, ADeviceThatSamplesGivesTheTokensOfTheSampler) {
  SCOPED_TRACE(SeedTrace(seed_));
  SimRequest request = Request();
  request.sampling = {.temperature = 0.8f, .top_k = 20, .top_p = 0.9f, .seed = seed_};
  request.forced_tokens = {3, 5};
  std::vector<uint32_t> tokens[2];
  for (const bool samples : {false, true}) {
    SimCluster cluster(options_);
    device_->samples_itself = samples;
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    ASSERT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
    tokens[samples] = cluster.result(id).tokens;
    EXPECT_EQ(device_->num_steps_without_logits, samples ? 10 : 0);  // one forced, one prefilled
  }
  EXPECT_EQ(tokens[0], tokens[1]);
}

TEST_F(DeviceFaultsTest, AlternativesTakeTheLogitsOfADeviceThatSamples) {
  SCOPED_TRACE(SeedTrace(seed_));
  SimRequest request = Request();
  request.sampling = {.temperature = 0.8f, .top_k = 20, .seed = seed_};
  request.top_logprobs = 9;
  SimResult results[2];
  for (const bool samples : {false, true}) {
    SimCluster cluster(options_);
    device_->samples_itself = samples;
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    results[samples] = cluster.result(id);
    ASSERT_TRUE(results[samples].status.ok()) << results[samples].status;
    EXPECT_EQ(device_->num_steps_without_logits, 0);
  }
  EXPECT_EQ(results[0].tokens, results[1].tokens);
  ASSERT_EQ(results[1].top.size(), request.max_tokens);
  for (size_t i = 0; i < request.max_tokens; ++i) {
    EXPECT_EQ(results[0].top[i].tokens, results[1].top[i].tokens);
    EXPECT_EQ(results[0].top[i].logprobs, results[1].top[i].logprobs);
    EXPECT_EQ(results[1].top[i].tokens.size(), 9u);
  }
}

TEST_F(DeviceFaultsTest, AStepThatTheDeviceGivesUpFailsItsRowsAlone) {
  SCOPED_TRACE(SeedTrace(seed_));
  SimCluster cluster(options_);
  device_->gives_up_in_step = 4;
  const SequenceId first = cluster.Submit(Request());
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_TRUE(absl::IsDeadlineExceeded(cluster.result(first).status));
  EXPECT_EQ(cluster.result(first).tokens.size(), 4u);
  const SequenceId second = cluster.Submit(Request());
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_TRUE(cluster.result(second).status.ok()) << cluster.result(second).status;
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(DeviceFaultsTest, ABrokenDeviceEndsEverySequenceAndTakesNoMore) {
  SCOPED_TRACE(SeedTrace(seed_));
  SimCluster cluster(options_);
  device_->breaks_in_step = 3;
  const SequenceId ids[] = {cluster.Submit(Request()), cluster.Submit(Request())};
  ASSERT_TRUE(cluster.RunUntilEnded());
  const SequenceId late = cluster.Submit(Request());
  ASSERT_TRUE(cluster.RunUntilEnded());
  for (const SequenceId id : {ids[0], ids[1], late}) {
    EXPECT_EQ(cluster.result(id).status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(cluster.result(id).status.message()), HasSubstr("GPU 7 broke"));
  }
  EXPECT_EQ(cluster.Leftovers(), "");
}

}  // namespace
}  // namespace tributary
