// The 41 features against tools/fluxion_features.py, which computes them in another language from all tokens at once
// (tests/golden/fluxion_features.txt is what it prints), and at their edges.
#include "policy/fluxion/head_features.h"

#include <cmath>
#include <cstddef>
#include <fstream>
#include <limits>
#include <vector>

#include "base/check.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

constexpr uint32_t kSteps = 3, kHeads = 4, kKvHeads = 2, kGroup = 2, kDim = 8;
constexpr uint32_t kTokens = 403, kSinks = 4, kRemoteEnd = 304;

// As golden_probe() of the tool.
std::vector<float> Numbers(int begin, size_t count) {
  std::vector<float> numbers(count);
  for (size_t n = 0; n < count; ++n) {
    const long i = begin + static_cast<long>(n);
    const double x = static_cast<double>(i);
    numbers[n] = static_cast<float>(std::sin(0.37 * x + 0.11 * static_cast<double>(i * i % 97)) *
                                    (1 + static_cast<double>(i % 7) / 3));
  }
  return numbers;
}

class Golden {
 public:
  Golden() {
    for (uint32_t kv_head = 0; kv_head < kKvHeads; ++kv_head) {
      memory_.emplace_back(RemoteKeys::Floats(kTokens, kDim), NAN);
      remote_.emplace_back(memory_.back(), kDim);
      for (uint32_t token = kSinks; token < kRemoteEnd; ++token) {
        remote_.back().Add(At(k_, kv_head, token), At(v_, kv_head, token));
      }
    }
  }

  std::span<const FluxionFeatures> Step(uint32_t step) {
    const uint32_t context = kTokens - kSteps + step + 1;
    for (uint32_t kv_head = 0; kv_head < kKvHeads; ++kv_head) {
      double sinks = 0, resident = 0;
      for (uint32_t token = 0; token < context; ++token) {
        if (IsResident(token)) resident += Norm(At(v_, kv_head, token));
        if (token < kSinks) sinks += Norm(At(v_, kv_head, token));
      }
      views_[kv_head] = {&remote_[kv_head], resident / (context - (kRemoteEnd - kSinks)), sinks / kSinks};
    }
    for (uint32_t head = 0; head < kHeads; ++head) heads_[head] = Attend(step, head, context);
    std::vector<double> last_layer;
    for (uint32_t head = 0; head < kHeads; ++head) last_layer.push_back(double{last_layer_[step * kHeads + head]});
    const LayerView view{.layer = 1,
                         .num_layers = 3,
                         .context_tokens = context,
                         .remote_tokens = kRemoteEnd - kSinks,
                         .group_size = kGroup,
                         .head_dim = kDim,
                         .softmax_scale = kScale,
                         .q = std::span(q_).subspan(size_t{step} * kHeads * kDim, kHeads * kDim),
                         .heads = heads_,
                         .kv_heads = views_,
                         .head_rates = head_rates_,
                         .last_layer = last_layer};
    return features_.Compute(view, past_);
  }

 private:
  static constexpr float kScale = 0.35355339f;

  static bool IsResident(uint32_t token) { return token < kSinks || token >= kRemoteEnd; }
  static std::span<const float> At(const std::vector<float>& rows, uint32_t kv_head, uint32_t token) {
    return std::span(rows).subspan((size_t{kv_head} * kTokens + token) * kDim, kDim);
  }
  static double Norm(std::span<const float> x) {
    double sum = 0;
    for (const float value : x) sum += double{value} * double{value};
    return std::sqrt(sum);
  }

  // The resident attention in f64.
  ResidentHead Attend(uint32_t step, uint32_t head, uint32_t context) const {
    std::vector<double> weights;
    std::vector<uint32_t> tokens;
    double sum = 0;
    for (uint32_t token = 0; token < context; ++token) {
      if (!IsResident(token)) continue;
      double score = 0;
      for (uint32_t d = 0; d < kDim; ++d) {
        score += double{q_[(step * kHeads + head) * kDim + d]} * double{At(k_, head / kGroup, token)[d]};
      }
      tokens.push_back(token);
      weights.push_back(std::exp(score * double{kScale}));
      sum += weights.back();
    }
    std::vector<float> normalised, out(kDim);
    for (const double weight : weights) normalised.push_back(static_cast<float>(weight / sum));
    for (uint32_t d = 0; d < kDim; ++d) {
      double value = 0;
      for (size_t i = 0; i < tokens.size(); ++i)
        value += weights[i] / sum * double{At(v_, head / kGroup, tokens[i])[d]};
      out[d] = static_cast<float>(value);
    }
    WeightSums sums(tokens.size(), kSinks);
    sums.Add(std::span(normalised).first(37));  // in uneven runs
    sums.Add(std::span(normalised).subspan(37));
    return {static_cast<float>(std::log(sum)), Norm(out), sums.entropy(), sums.sink_share(), sums.recent_share()};
  }

  const std::vector<float> q_ = Numbers(1, kSteps* kHeads* kDim);
  const std::vector<float> k_ = Numbers(1000, kKvHeads* kTokens* kDim);
  const std::vector<float> v_ = Numbers(9000, kKvHeads* kTokens* kDim);
  const std::vector<float> head_rates_ = Numbers(20000, kHeads * 2);
  const std::vector<float> last_layer_ = Numbers(21000, kSteps* kHeads);
  std::vector<std::vector<float>> memory_;
  std::vector<RemoteKeys> remote_;
  std::vector<KvHeadView> views_{kKvHeads};
  std::vector<ResidentHead> heads_{kHeads};
  std::vector<HeadPast> past_{kHeads};
  HeadFeatures features_;
};

TEST(HeadFeaturesTest, AreThoseOfTheTool) {
  std::ifstream file("tests/golden/fluxion_features.txt");
  ASSERT_TRUE(file.is_open());
  Golden golden;
  for (uint32_t step = 0; step < kSteps; ++step) {
    const std::span<const FluxionFeatures> features = golden.Step(step);
    ASSERT_EQ(features.size(), kHeads);
    for (uint32_t head = 0; head < kHeads; ++head) {
      for (uint32_t i = 0; i < kNumFluxionFeatures; ++i) {
        double expected = 0;
        ASSERT_TRUE(file >> expected);
        // The tool prints six digits of sums in f32.
        EXPECT_NEAR(features[head][i], expected, 2e-4 * (1 + std::abs(expected)))
            << kFluxionFeatures[i].name << ", step " << step << ", head " << head;
      }
    }
  }
}

TEST(HeadFeaturesTest, OneRemoteTokenOneHeadAndZerosGiveNumbers) {
  for (const float value : {0.0f, 1.0f}) {
    std::vector<float> memory(RemoteKeys::Floats(1, kDim)), row(kDim, value), rates(2);
    RemoteKeys remote(memory, kDim);
    remote.Add(row, row);
    const ResidentHead resident;
    const KvHeadView kv{&remote, 0, 0};
    std::vector<HeadPast> past(1);
    HeadFeatures features;
    for (int step = 0; step < 2; ++step) {
      const auto of_step = features.Compute({.context_tokens = 2,
                                             .remote_tokens = 1,
                                             .head_dim = kDim,
                                             .softmax_scale = 1,
                                             .q = row,
                                             .heads = std::span(&resident, 1),
                                             .kv_heads = std::span(&kv, 1),
                                             .head_rates = rates},
                                            past);
      for (uint32_t i = 0; i < kNumFluxionFeatures; ++i) {
        EXPECT_TRUE(std::isfinite(of_step[0][i])) << kFluxionFeatures[i].name;
      }
    }
    EXPECT_EQ(past[0].num_steps, 2u);
  }
}

TEST(RemoteKeysTest, BoundsHoldAndBlocksAreWholeOrRagged) {
  for (const uint64_t tokens : {1, 127, 128, 129, 300}) {
    std::vector<float> memory(RemoteKeys::Floats(tokens, kDim), NAN);
    RemoteKeys remote(memory, kDim);
    const std::vector<float> k = Numbers(5, tokens * kDim), q = Numbers(77, kDim);
    for (uint64_t token = 0; token < tokens; ++token) {
      remote.Add(std::span(k).subspan(token * kDim, kDim), std::span(k).subspan(token * kDim, kDim));
    }
    EXPECT_EQ(remote.num_blocks(), (tokens + 127) / 128);
    std::vector<float> scores(remote.num_blocks()), bounds(remote.num_blocks());
    remote.Score(q, 0.5f, scores, bounds);
    for (uint64_t token = 0; token < tokens; ++token) {
      float score = 0;
      for (uint32_t d = 0; d < kDim; ++d) score += q[d] * k[token * kDim + d];
      EXPECT_LE(0.5f * score, bounds[token / 128] + 1e-4f);
    }
    EXPECT_GE(remote.scatter(), -1e-6);
    EXPECT_LE(remote.scatter(), 1 + 1e-6);
  }
}

TEST(FeatureSpecTest, TheHashIsOfTheTable) {
  EXPECT_EQ(FluxionFeatureSpecHash().size(), 16u);
  // tools/fluxion_features.py says the same; whoever changes the table trains the predictors anew.
  EXPECT_EQ(FluxionFeatureSpecHash(), "a388d75661d4887b");
}

}  // namespace
}  // namespace tributary
