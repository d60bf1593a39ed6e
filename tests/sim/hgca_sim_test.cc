// HGCA through the whole path: with everything selected it is dense, bit for bit; what it reports is what it did; and
// nothing depends on timing or on the rest of the batch.
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "policy/kept_mass.h"
#include "tests/sim/sim_fixture.h"

namespace tributary {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kRounds = 3;
#else
constexpr int kRounds = 10;
#endif

// What a device saw of the one sequence that it runs: enough to say how much of the softmax the merged partials held.
class WatchingDevice final : public TinyDevice {
 public:
  using TinyDevice::TinyDevice;
  WatchingDevice(const TinyModel& model, const DeviceLimits& limits, uint32_t sink_tokens)
      : TinyDevice(model, limits), model_(model), sink_tokens_(sink_tokens) {
    keys_.resize(model.num_layers);
  }

  void OnProjected(uint32_t layer, std::span<const std::byte> k_bytes, std::span<const std::byte> v_bytes) override {
    std::vector<float> k(k_bytes.size() / sizeof(float)), v(k.size());
    std::memcpy(k.data(), k_bytes.data(), k_bytes.size());
    std::memcpy(v.data(), v_bytes.data(), v_bytes.size());
    keys_[layer].insert(keys_[layer].end(), k.begin(), k.end());
  }
  void BeginStep(std::span<const DecodeRow> rows) override {
    TinyDevice::BeginStep(rows);
    row_ = rows.front();
    steps.emplace_back();
  }
  std::span<const float> AwaitQuery(uint32_t layer) override {
    const std::span<const float> q = TinyDevice::AwaitQuery(layer);
    q_.assign(q.begin(), q.end());
    std::vector<float> k(kv_elements()), v(k.size());
    TinyDevice::ReadResident(row_.resident, layer, {row_.append_slot, row_.append_slot + 1},
                             {0, model_.shape.num_kv_heads}, std::as_writable_bytes(std::span(k)),
                             std::as_writable_bytes(std::span(v)));
    keys_[layer].insert(keys_[layer].end(), k.begin(), k.end());
    return q;
  }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) override {
    size_t resident = 0;
    for (const SlotRange& range : row_.attend) resident += range.end - range.begin;
    const size_t remote = row_.pos + 1 - resident;
    for (uint32_t head = 0; head < model_.shape.num_q_heads && num_slots[0] > 0; ++head) {
      double read = 0;
      for (uint32_t slot = 0; slot < num_slots[0]; ++slot) {
        read += std::exp(double{partial_slots().lse_ln[slot * model_.shape.num_q_heads + head]});
      }
      double all = 0;
      for (size_t token = sink_tokens_; token < sink_tokens_ + remote; ++token) {
        double score = 0;
        for (uint32_t d = 0; d < model_.shape.head_dim; ++d) {
          const size_t kv_head = head / model_.shape.group_size();
          score += double{q_[head * model_.shape.head_dim + d]} *
                   keys_[layer][token * kv_elements() + kv_head * model_.shape.head_dim + d];
        }
        all += std::exp(score * model_.softmax_scale());
      }
      steps.back().Add(read / all);
    }
    TinyDevice::FinishLayer(layer, num_slots);
  }

  std::vector<KeptMassStats> steps;

 private:
  size_t kv_elements() const { return size_t{model_.shape.num_kv_heads} * model_.shape.head_dim; }

  const TinyModel model_;
  const uint32_t sink_tokens_;
  DecodeRow row_;
  std::vector<float> q_;
  std::vector<std::vector<float>> keys_;  // [layer], [token][kv_head][head_dim]
};

class HgcaSimTest : public testing::SimTest {
 protected:
  SimOptions RandomOptions() {
    SimOptions options;
    options.seed = random_();
    options.model.seed = random_();
    options.model.shape.num_kv_heads = RandomInt(random_, 1u, 2u);
    options.num_nodes = std::vector<uint32_t>{1, 2, 4}[RandomInt(random_, 0, 2)];
    return options;
  }
  SimRequest RandomRequest(const TinyModel& model, double beta) {
    SimRequest request;
    request.prompt.resize(RandomInt(random_, 1, 160));
    for (uint32_t& token : request.prompt) token = random_() % model.vocab_size;
    request.max_tokens = RandomInt(random_, 2u, 80u);
    // The same tokens whatever is read, so that every position can be compared.
    for (uint32_t i = 0; i < request.max_tokens; ++i) {
      request.forced_tokens.push_back(random_() % model.vocab_size);
    }
    request.layout.block_tokens = RandomInt(random_, 1u, 12u);
    request.layout.window_tokens = request.layout.block_tokens + RandomInt(random_, 0u, 20u);
    request.layout.sink_tokens = RandomInt(random_, 0u, 9u);
    request.cut.num_stripes = RandomInt(random_, 1u, 4u);
    request.cut.stripe_blocks = RandomInt<uint64_t>(random_, 1, 3);
    request.cut.head_parts = RandomInt(random_, 1u, model.shape.num_kv_heads);
    request.cut.layer_parts = RandomInt(random_, 1u, 2u);
    request.policy = Hgca(beta, request.layout.block_tokens);
    return request;
  }
  PolicyParams Hgca(double beta, uint32_t block_tokens) {
    PolicyRequest policy{.name = "hgca", .parameters = {{"beta", beta}}};
    policy.Set("alpha", 0.125 * RandomInt(random_, 0, 8));
    policy.Set("keep_min", RandomInt(random_, 0u, std::min(3u, block_tokens)));
    policy.Set("group_aggregate", RandomInt(random_, 0, 1) == 0 ? "max" : "mean");
    policy.Set("quality_sample_rate", std::vector{0.0, 0.3, 1.0}[RandomInt(random_, 0, 2)]);
    const bool has_floor = policy.Find("quality_sample_rate")->number() > 0 && RandomInt(random_, 0, 1) == 0;
    policy.Set("min_kept_mass", has_floor ? 0.6 : 0.0);
    return *ResolvePolicy(policy, {.block_tokens = block_tokens});
  }
};

TEST_F(HgcaSimTest, BetaZeroIsDenseBitForBit) {
  for (int round = 0; round < 2 * kRounds; ++round) {
    const SimOptions options = RandomOptions();
    SimRequest request = RandomRequest(options.model, 0);
    request.kv_dtype = std::vector{DType::kF32, DType::kBf16, DType::kF16}[RandomInt(random_, 0, 2)];
    request.remote_k_dtype = static_cast<DType>(RandomInt(random_, 0, 6));
    request.remote_v_dtype = static_cast<DType>(RandomInt(random_, 0, 6));
    const SimResult sparse = testing::Reference(options, request);
    request.policy = {};
    const SimResult dense = testing::Reference(options, request);
    ASSERT_EQ(sparse.tokens, dense.tokens);
    ASSERT_EQ(sparse.logits, dense.logits);
    EXPECT_FALSE(dense.summary.attention.has_value());
    EXPECT_EQ(sparse.summary.policy, "hgca");
    EXPECT_EQ(sparse.summary.attended_tokens_mean, dense.summary.attended_tokens_mean);
    if (!sparse.summary.attention.has_value()) continue;  // nothing could become remote
    EXPECT_EQ(sparse.summary.attention->remote_read_share, 1.0);
    EXPECT_EQ(sparse.summary.attention->kept_mass_min, 1.0);
  }
}

// A selection may depend on what is asked for and on the cut, on nothing else.
TEST_F(HgcaSimTest, DelaysAndTheRestOfTheBatchChangeNoBit) {
  for (int round = 0; round < kRounds; ++round) {
    SimOptions options = RandomOptions();
    std::vector<SimRequest> requests;
    for (int i = 0; i < 4; ++i) {
      requests.push_back(RandomRequest(options.model, std::vector{0.5, 1.0, 3.0}[i % 3]));
      if (i == 3) requests.back().policy = {};
    }
    testing::ExpectSameTogether(options, requests, random_);
  }
}

TEST_F(HgcaSimTest, TheKeptMassReportedIsTheTrueOne) {
  bool kept_less = false;
  for (int round = 0; round < 2 * kRounds; ++round) {
    SimOptions options = RandomOptions();
    SimRequest request = RandomRequest(options.model, std::vector{0.5, 1.0, 3.0}[round % 3]);
    request.policy.Set("quality_sample_rate", 1.0);
    request.report_attention_heads = true;
    WatchingDevice* device = nullptr;
    options.make_device = [&](const DeviceLimits& limits) {
      auto made = std::make_unique<WatchingDevice>(options.model, limits, request.layout.sink_tokens);
      device = made.get();
      return made;
    };
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    const SimResult& result = cluster.result(id);
    ASSERT_TRUE(result.status.ok()) << result.status;
    if (!result.summary.attention.has_value()) continue;
    const AttentionQualitySummary& reported = *result.summary.attention;
    KeptMassStats expected;
    bool is_first = true;  // with remote tokens: not measured
    uint64_t samples = 0;
    for (const KeptMassStats& step : device->steps) {
      if (step.count == 0) continue;
      if (!is_first) expected.Merge(step), ++samples;
      is_first = false;
    }
    ASSERT_EQ(reported.num_samples, samples);
    if (samples == 0) continue;
    EXPECT_NEAR(reported.kept_mass_mean, expected.mean(), 1e-3);
    EXPECT_NEAR(reported.kept_mass_min, expected.minimum(), 1e-3);
    kept_less |= reported.kept_mass_min < 0.9;
    ASSERT_EQ(reported.heads.size(), options.model.num_layers * options.model.shape.num_kv_heads);
    double mean = 0, min = 1;
    for (const HeadQuality& head : reported.heads) {
      mean += head.kept_mass_mean / static_cast<double>(reported.heads.size());
      min = std::min(min, head.kept_mass_min);
    }
    EXPECT_NEAR(mean, reported.kept_mass_mean, 1e-6);
    EXPECT_EQ(min, reported.kept_mass_min);
  }
  EXPECT_TRUE(kept_less) << "nothing was left out in any round: this tests nothing";
}

TEST_F(HgcaSimTest, LessIsReadThanByDense) {
  SimOptions options = RandomOptions();
  SimRequest request = RandomRequest(options.model, 2.0);
  request.prompt.assign(150, 7);
  for (uint32_t& token : request.prompt) token = random_() % options.model.vocab_size;
  request.layout = {.sink_tokens = 2, .window_tokens = 16, .block_tokens = 8};
  request.max_tokens = 60;
  request.forced_tokens.clear();
  request.policy =
      *ResolvePolicy({.name = "hgca", .parameters = {{"beta", 2.0}, {"keep_min", 1}}}, {.block_tokens = 8});
  const SimResult sparse = testing::Reference(options, request);
  ASSERT_TRUE(sparse.summary.attention.has_value());
  EXPECT_LT(sparse.summary.attention->remote_read_share, 0.8);
  EXPECT_GT(sparse.summary.attention->remote_read_share, 0.0);
  request.policy = {};
  EXPECT_LT(sparse.summary.attended_tokens_mean, testing::Reference(options, request).summary.attended_tokens_mean);
}

// There is nothing to select from, so it is dense and reports nothing.
TEST_F(HgcaSimTest, NothingRemoteIsDense) {
  const SimOptions options = RandomOptions();
  SimRequest request = RandomRequest(options.model, 1.0);
  request.layout = {.all_resident = true};
  const SimResult sparse = testing::Reference(options, request);
  request.policy = {};
  EXPECT_EQ(sparse.logits, testing::Reference(options, request).logits);
  EXPECT_FALSE(sparse.summary.attention.has_value());
}

}  // namespace
}  // namespace tributary
