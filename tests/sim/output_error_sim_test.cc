// The output error that a sparse policy reports, through the whole path: it is the true one, in f64 over all keys and
// values that the device ever saw; it makes heads fall back where a limit says so; and measuring changes no token.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "base/log.h"
#include "gpu_worker/device/host/host_device.h"
#include "gtest/gtest.h"
#include "model/weights.h"
#include "policy/output_error_stats.h"
#include "tests/sim/sim_cluster.h"
#include "tests/testutil/random_model.h"
#include "tests/testutil/temp_dir.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kRounds = 2;
#else
constexpr int kRounds = 6;
#endif

// A head's output, not normalised.
struct Output {
  std::vector<double> sum;
  double weight = 0;

  std::vector<double> Normalised() const {
    std::vector<double> out = sum;
    for (double& value : out) value = weight == 0 ? 0 : value / weight;
    return out;
  }
};

double Norm(const std::vector<double>& x) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  return std::sqrt(squares);
}

// Sees the keys and values of the one sequence that it runs, and what it is given to merge: enough to work out both
// outputs itself.
class ErrorWatcher final : public TinyDevice {
 public:
  ErrorWatcher(const TinyModel& model, const DeviceLimits& limits, uint32_t sink_tokens)
      : TinyDevice(model, limits), model_(model), sink_tokens_(sink_tokens), kv_(model.num_layers) {}

  void OnProjected(uint32_t layer, std::span<const std::byte> k_bytes, std::span<const std::byte> v_bytes) override {
    std::vector<float> k(k_bytes.size() / sizeof(float)), v(k.size());
    std::memcpy(k.data(), k_bytes.data(), k_bytes.size());
    std::memcpy(v.data(), v_bytes.data(), v_bytes.size());
    Remember(layer, k, v);
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
    Remember(layer, k, v);
    return q;
  }
  void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) override {
    if (num_slots[0] > 0) Judge(layer, num_slots[0]);
    TinyDevice::FinishLayer(layer, num_slots);
  }

  // Of each step with remote tokens: by layer and query head.
  std::vector<std::vector<double>> steps;

 private:
  size_t kv_elements() const { return size_t{model_.shape.num_kv_heads} * model_.shape.head_dim; }
  void Remember(uint32_t layer, const std::vector<float>& k, const std::vector<float>& v) {
    kv_[layer].first.insert(kv_[layer].first.end(), k.begin(), k.end());
    kv_[layer].second.insert(kv_[layer].second.end(), v.begin(), v.end());
  }
  void AddTokens(uint32_t layer, uint32_t head, size_t begin, size_t end, Output* output) const {
    const size_t dim = model_.shape.head_dim, first = head / model_.shape.group_size() * dim;
    for (size_t token = begin; token < end; ++token) {
      const float* const k = kv_[layer].first.data() + token * kv_elements() + first;
      const float* const v = kv_[layer].second.data() + token * kv_elements() + first;
      double score = 0;
      for (size_t d = 0; d < dim; ++d) score += double{q_[head * dim + d]} * double{k[d]};
      const double weight = std::exp(score * double{model_.softmax_scale()});
      output->weight += weight;
      for (size_t d = 0; d < dim; ++d) output->sum[d] += weight * double{v[d]};
    }
  }
  void Judge(uint32_t layer, uint32_t num_slots) {
    const size_t dim = model_.shape.head_dim, heads = model_.shape.num_q_heads, context = row_.pos + 1;
    size_t resident = 0;
    for (const SlotRange& range : row_.attend) resident += range.end - range.begin;
    const size_t window_begin = context - (resident - sink_tokens_);
    std::vector<double> distances(heads);
    double largest = 0;
    for (uint32_t head = 0; head < heads; ++head) {
      Output full{std::vector<double>(dim), 0}, read = full;
      AddTokens(layer, head, 0, context, &full);
      AddTokens(layer, head, 0, sink_tokens_, &read);
      AddTokens(layer, head, window_begin, context, &read);
      for (uint32_t slot = 0; slot < num_slots; ++slot) {
        const double weight = std::exp(double{partial_slots().lse_ln[slot * heads + head]});
        read.weight += weight;
        for (size_t d = 0; weight > 0 && d < dim; ++d) {
          read.sum[d] += weight * double{partial_slots().out[(slot * heads + head) * dim + d]};
        }
      }
      const std::vector<double> of_all = full.Normalised();
      std::vector<double> difference = read.Normalised();
      for (size_t d = 0; d < dim; ++d) difference[d] -= of_all[d];
      distances[head] = Norm(difference);
      largest = std::max(largest, Norm(of_all));
    }
    for (const double distance : distances) steps.back().push_back(distance / largest);
  }

  const TinyModel model_;
  const uint32_t sink_tokens_;
  DecodeRow row_;
  std::vector<float> q_;
  std::vector<std::pair<std::vector<float>, std::vector<float>>> kv_;  // [layer], each [token][kv_head][head_dim]
};

class OutputErrorSimTest : public testing::Test {
 protected:
  OutputErrorSimTest() { (void)InitLogging("sim", "error"); }

  SimOptions Options(int round) {
    SimOptions options;
    options.seed = random_();
    options.model.seed = random_();
    options.num_nodes = std::vector<uint32_t>{1, 2, 4}[round % 3];
    return options;
  }
  // Long enough for blocks of 16 to be whole on each of several nodes.
  SimRequest Request(const TinyModel& model, int round) {
    SimRequest request;
    request.prompt.resize(RandomInt(random_, 120, 200));
    for (uint32_t& token : request.prompt) token = random_() % model.vocab_size;
    request.max_tokens = 24;
    request.layout = {.sink_tokens = RandomInt(random_, 0u, 9u), .window_tokens = 16, .block_tokens = 8};
    const std::vector<SimCut> cuts = {{.num_stripes = 1},
                                      {.num_stripes = 3},
                                      {.head_parts = 2},
                                      {.num_stripes = 2, .head_parts = 2, .layer_parts = 2}};
    request.cut = cuts[static_cast<size_t>(round) % cuts.size()];
    request.report_attention_heads = true;
    return request;
  }
  static PolicyParams Policy(std::string name, std::vector<NamedValue> parameters, double rate) {
    PolicyRequest request{.name = std::move(name), .parameters = std::move(parameters)};
    request.Set("quality_sample_rate", rate);
    return *ResolvePolicy(request, {.block_tokens = 8});
  }
  // What a query reads does not depend on what was measured before.
  static std::vector<PolicyParams> SteadyPolicies(double rate) {
    return {Policy("hgca", {{"beta", 2}, {"keep_min", 1}}, rate),
            Policy("fluxion", {{"budget_mode", "fixed"}, {"budget", 0.1}}, rate)};
  }
  void ForceTokens(const TinyModel& model, size_t count, SimRequest* request) {
    request->forced_tokens.clear();
    for (size_t i = 0; i < count; ++i) request->forced_tokens.push_back(random_() % model.vocab_size);
  }
  static SimResult Run(const SimOptions& options, const SimRequest& request) {
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    EXPECT_TRUE(cluster.RunUntilEnded());
    EXPECT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
    EXPECT_EQ(cluster.Leftovers(), "");
    return cluster.result(id);
  }

  const uint64_t seed_ = TestSeed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
};

// Partials are f32 with outputs of around 1, whose norms are what errors are relative to.
constexpr double kRounding = 2e-5;

TEST_F(OutputErrorSimTest, WhatIsReportedIsTheTrueError) {
  for (int round = 0; round < kRounds; ++round) {
    std::vector<PolicyParams> policies = SteadyPolicies(1);
    policies.push_back(Policy("fluxion", {{"captured_mass", 0.5}, {"max_budget", 0.3}}, 1));
    policies.push_back(Policy("hgca", {{"beta", 4}, {"keep_min", 1}, {"max_output_error", 0.2}}, 1));
    for (const PolicyParams& policy : policies) {
      SimOptions options = Options(round);
      SimRequest request = Request(options.model, round);
      request.policy = policy;
      ErrorWatcher* device = nullptr;
      options.make_device = [&](const DeviceLimits& limits) {
        auto made = std::make_unique<ErrorWatcher>(options.model, limits, request.layout.sink_tokens);
        device = made.get();
        return made;
      };
      SimCluster cluster(options);
      const SequenceId id = cluster.Submit(request);
      ASSERT_TRUE(cluster.RunUntilEnded());
      ASSERT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
      const AttentionQualitySummary& reported = *cluster.result(id).summary.attention;
      const size_t kv_heads = options.model.shape.num_kv_heads, group = options.model.shape.group_size();
      std::vector<OutputErrorStats> heads(options.model.num_layers * kv_heads);
      OutputErrorStats all;
      uint64_t samples = 0;
      for (size_t i = 1; i < device->steps.size(); ++i) {  // the first one is not measured
        ++samples;
        for (size_t head = 0; head < device->steps[i].size(); ++head) {
          heads[head / group].Add(device->steps[i][head]);
          all.Add(device->steps[i][head]);
        }
      }
      ASSERT_EQ(reported.num_samples, samples);
      EXPECT_GT(all.maximum(), 0.01) << "nothing was left out: this tests nothing";
      EXPECT_NEAR(reported.output_error_mean, all.mean(), kRounding);
      EXPECT_NEAR(reported.output_error_max, all.maximum(), kRounding);
      // A sample may be on the other side of a bucket's bound.
      EXPECT_LE(reported.output_error_p95, all.Quantile(0.95) * std::exp2(0.25) + kRounding);
      EXPECT_GE(reported.output_error_p95, all.Quantile(0.95) / std::exp2(0.25) - kRounding);
      ASSERT_EQ(reported.heads.size(), heads.size());
      for (size_t i = 0; i < heads.size(); ++i) {
        EXPECT_NEAR(reported.heads[i].output_error_mean, heads[i].mean(), kRounding);
        EXPECT_NEAR(reported.heads[i].output_error_max, heads[i].maximum(), kRounding);
      }
    }
  }
}

// A budget of a twentieth leaves out tokens of every head at every query, so at the first sample, the second step with
// remote tokens, every head is too wrong for such a limit. With one layer, KV depends on the tokens alone: what the
// steps before computed does not matter, and the rest is dense's, bit for bit.
TEST_F(OutputErrorSimTest, ALimitThatNothingMeetsIsDenseFromTheFirstSampleOn) {
  for (int round = 0; round < kRounds; ++round) {
    SimOptions options = Options(round);
    options.model.num_layers = 1;
    SimRequest request = Request(options.model, round);
    request.cut.layer_parts = 1;
    constexpr size_t kBefore = 3;  // prefill's token, and those of the steps up to the sample
    ForceTokens(options.model, kBefore, &request);
    request.policy = Policy("fluxion", {{"budget_mode", "fixed"}, {"budget", 0.05}, {"max_output_error", 1e-30}}, 1);
    const SimResult limited = Run(options, request);
    EXPECT_EQ(limited.summary.attention->fallback_heads, options.model.shape.num_kv_heads);
    request.policy = {};
    const SimResult dense = Run(options, request);
    EXPECT_FALSE(limited.logits[kBefore - 1] == dense.logits[kBefore - 1]) << "sparse until then";
    ASSERT_EQ(limited.tokens, dense.tokens);
    for (size_t i = kBefore; i < dense.logits.size(); ++i) ASSERT_TRUE(limited.logits[i] == dense.logits[i]) << i;
  }
}

TEST_F(OutputErrorSimTest, TheSmallerTheLimitTheMoreIsRead) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = Options(round);
    SimRequest request = Request(options.model, round);
    ForceTokens(options.model, request.max_tokens, &request);
    request.policy = Policy("hgca", {{"beta", 1}, {"keep_min", 1}}, 1);
    const SimResult free = Run(options, request);
    EXPECT_EQ(free.summary.attention->fallback_heads, 0u);
    const double worst = free.summary.attention->output_error_max;
    if (worst < 0.99) {
      request.policy.Set("max_output_error", worst + 0.01);
      const SimResult loose = Run(options, request);
      EXPECT_TRUE(loose.logits == free.logits) << "no error is beyond it";
      EXPECT_EQ(loose.summary.attention->fallback_heads, 0u);
    }
    request.policy.Set("max_output_error", 1e-30);
    const SimResult tight = Run(options, request);
    EXPECT_GT(tight.summary.attention->remote_read_share, free.summary.attention->remote_read_share);
    EXPECT_GT(tight.summary.attention->fallback_heads, 0u);
    EXPECT_LT(tight.summary.attention->output_error_mean, free.summary.attention->output_error_mean);
  }
}

TEST_F(OutputErrorSimTest, MeasuringChangesNoBit) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = Options(round);
    SimRequest request = Request(options.model, round);
    for (size_t policy = 0; policy < SteadyPolicies(0).size(); ++policy) {
      request.policy = SteadyPolicies(0)[policy];
      const SimResult unmeasured = Run(options, request);
      EXPECT_EQ(unmeasured.summary.attention->num_samples, 0u);
      for (const double rate : {0.3, 1.0}) {
        request.policy = SteadyPolicies(rate)[policy];
        const SimResult measured = Run(options, request);
        EXPECT_GT(measured.summary.attention->num_samples, 0u);
        ASSERT_EQ(measured.tokens, unmeasured.tokens);
        ASSERT_TRUE(measured.logits == unmeasured.logits);
      }
    }
  }
}

// The same on the host device, whose resident attention goes before the query or behind it.
TEST_F(OutputErrorSimTest, MeasuringChangesNoBitOnTheHostDevice) {
  RandomModelOptions model;
  model.seed = seed_;
  TempDir dir;
  WriteRandomModel(dir.path(), model);
  const std::shared_ptr<const ModelWeights> weights = *LoadModelWeights(dir.path());
  SimOptions options = Options(1);
  options.model.shape = weights->config.attention;
  options.model.num_layers = weights->config.num_layers;
  options.model.vocab_size = weights->config.vocab_size;
  options.node_pool_bytes = 64u << 20;
  options.resident_pool_bytes = 16u << 20;
  options.make_device = [&](const DeviceLimits& limits) { return *MakeHostDevice(weights, limits, 2); };
  SimRequest request = Request(options.model, 2);
  for (int i = 0; i < 150; ++i) request.prompt.push_back(random_() % options.model.vocab_size);
  std::vector<PolicyParams> policies = SteadyPolicies(0);
  policies.push_back(
      Policy("fluxion", {{"budget_mode", "oracle"}, {"target_output_error", 0.05}}, 0));  // attends first
  for (PolicyParams& policy : policies) {
    request.policy = policy;
    const SimResult unmeasured = Run(options, request);
    request.policy.Set("quality_sample_rate", 0.5);
    const SimResult measured = Run(options, request);
    EXPECT_GT(measured.summary.attention->num_samples, 5u);
    EXPECT_GT(measured.summary.attention->output_error_max, 0) << policy.name();
    ASSERT_EQ(measured.tokens, unmeasured.tokens);
    ASSERT_TRUE(measured.logits == unmeasured.logits);
  }
}

}  // namespace
}  // namespace tributary
