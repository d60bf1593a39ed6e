// Every variant of block selection that this machine supports, against sorting; and all variants against each other.
#include "cpu_attention_service/kernels/selection/block_selection.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/aligned_buffer.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Ids by descending score, NaN first, equal scores by id.
std::vector<uint32_t> Sorted(const std::vector<float>& scores) {
  std::vector<uint32_t> ids(scores.size());
  std::iota(ids.begin(), ids.end(), 0u);
  std::stable_sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) {
    const bool nan_a = std::isnan(scores[a]);
    const bool nan_b = std::isnan(scores[b]);
    if (nan_a || nan_b) return nan_a && !nan_b;
    return scores[a] > scores[b];
  });
  return ids;
}

std::vector<uint32_t> FirstAscending(std::vector<uint32_t> ids, size_t count) {
  ids.resize(count);
  std::sort(ids.begin(), ids.end());
  return ids;
}

class BlockSelectionTest : public ::testing::TestWithParam<const BlockSelectionKernel*> {
 protected:
  void SetUp() override {
    if ((GetParam()->required_isa & ~cpu_kernels::SupportedIsa()) != 0) {
      GTEST_SKIP() << GetParam()->name << ": not on this CPU";
    }
  }

  // Exactly the room that the contract asks for, so that AddressSanitizer sees a write past it.
  std::vector<uint32_t> TopK(const std::vector<float>& scores, uint32_t k) {
    std::vector<uint32_t> ids(k + kSelectSlack);
    const uint32_t n = static_cast<uint32_t>(scores.size());
    ids.resize(GetParam()->fns.top_k(scores.data(), n, k, ids.data()));
    return ids;
  }
  std::vector<uint32_t> TopP(const std::vector<float>& weights, double p) {
    const uint32_t n = static_cast<uint32_t>(weights.size());
    std::vector<uint32_t> ids(n + kSelectSlack);
    AlignedBuffer<uint32_t> fixed((n + 15) / 16 * 16);
    ids.resize(GetParam()->fns.top_p(weights.data(), n, p, fixed.data(), ids.data()));
    return ids;
  }

  std::vector<float> RandomScores(uint32_t n) {
    std::vector<float> scores(n);
    const int kind = RandomInt(random_, 0, 6);
    std::normal_distribution<float> normal(0, 3);
    for (float& score : scores) {
      switch (kind) {
        case 0:  // many ties
          score = static_cast<float>(RandomInt(random_, -3, 3));
          break;
        case 1:  // all the same
          score = -2.5f;
          break;
        case 2:  // magnitudes of every kind, denormal ones too
          score = std::ldexp(normal(random_), RandomInt(random_, -149, 120));
          break;
        case 3: {  // NaN and infinities among them
          const int special = RandomInt(random_, 0, 9);
          score = special == 0 ? kNan : special == 1 ? kInf : special == 2 ? -kInf : normal(random_);
          break;
        }
        case 4:  // half of them zeros of both signs
          score = RandomInt(random_, 0, 1) != 0 ? normal(random_) : RandomInt(random_, 0, 1) != 0 ? 0.0f : -0.0f;
          break;
        default:
          score = normal(random_);
      }
    }
    return scores;
  }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
};

TEST_P(BlockSelectionTest, TopKIsThatOfASort) {
  for (int round = 0; round < 300; ++round) {
    const uint32_t n = RandomInt(random_, 0u, round % 10 == 0 ? 5000u : 200u);
    const uint32_t k = RandomInt(random_, 0u, n + 2);
    const std::vector<float> scores = RandomScores(n);
    ASSERT_EQ(TopK(scores, k), FirstAscending(Sorted(scores), std::min(k, n))) << "n " << n << " k " << k;
  }
}

TEST_P(BlockSelectionTest, TopKOfScoresThatAreAllNan) {
  const std::vector<float> scores(40, kNan);
  EXPECT_EQ(TopK(scores, 3), (std::vector<uint32_t>{0, 1, 2}));
}

TEST_P(BlockSelectionTest, ThresholdTakesWhatReachesIt) {
  for (int round = 0; round < 100; ++round) {
    const std::vector<float> scores = RandomScores(RandomInt(random_, 0u, 300u));
    const uint32_t n = static_cast<uint32_t>(scores.size());
    const float threshold = n == 0 ? 0.0f : scores[RandomInt(random_, 0u, n - 1)];
    if (std::isnan(threshold)) continue;
    std::vector<uint32_t> expected;
    for (uint32_t i = 0; i < n; ++i) {
      if (!(scores[i] < threshold)) expected.push_back(i);
    }
    std::vector<uint32_t> ids(n + kSelectSlack);
    ids.resize(GetParam()->fns.threshold(scores.data(), n, threshold, ids.data()));
    ASSERT_EQ(ids, expected);
  }
}

// By the definition: in units of 2^-24 of the largest weight, the shortest prefix of the sorted weights that reaches p.
std::vector<uint32_t> ExpectedTopP(const std::vector<float>& weights, double p) {
  float largest = 0;
  for (float w : weights) {
    if (w > largest && w < kInf) largest = w;
  }
  std::vector<float> fixed(weights.size());
  double total = 0;
  size_t always = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] <= largest)) {
      fixed[i] = kInf;
      ++always;
      continue;
    }
    const float scale = largest < 0x1p-100f ? 0.0f : 16777216.0f / largest;
    fixed[i] = std::rint(std::max(weights[i], 0.0f) * scale);
    total += fixed[i];
  }
  const std::vector<uint32_t> sorted = Sorted(fixed);
  size_t count = always;
  const double wanted = std::ceil(p * total);
  for (double sum = 0; sum < wanted; ++count) sum += fixed[sorted[count]];
  return FirstAscending(sorted, count);
}

TEST_P(BlockSelectionTest, TopPIsTheShortestPrefixOfASort) {
  for (int round = 0; round < 200; ++round) {
    const uint32_t n = RandomInt(random_, 0u, round % 10 == 0 ? 5000u : 200u);
    std::vector<float> weights = RandomScores(n);
    if (round % 2 == 0) {
      for (float& weight : weights) weight = std::exp(weight);
    }
    const double p = round % 7 == 0 ? 1.0 : std::uniform_real_distribution<double>(0.001, 1)(random_);
    ASSERT_EQ(TopP(weights, p), ExpectedTopP(weights, p)) << "n " << n << " p " << p;
  }
}

TEST_P(BlockSelectionTest, TopPOfWeightsWithoutMassTakesNothing) {
  EXPECT_TRUE(TopP(std::vector<float>(20, 0.0f), 0.9).empty());
  EXPECT_TRUE(TopP({}, 0.9).empty());
  EXPECT_EQ(TopP({0.0f, kNan, -1.0f, kInf}, 0.5), (std::vector<uint32_t>{1, 3}));
}

std::vector<const BlockSelectionKernel*> AllKernels() {
  std::vector<const BlockSelectionKernel*> kernels;
  for (const BlockSelectionKernel& kernel : block_selection::All()) kernels.push_back(&kernel);
  return kernels;
}

INSTANTIATE_TEST_SUITE_P(All, BlockSelectionTest, ::testing::ValuesIn(AllKernels()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST(BlockSelectionChoice, UnknownNamesAreErrorsThatListTheVariants) {
  const auto kernel = block_selection::Find("mmx");
  EXPECT_EQ(kernel.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(kernel.status().message()), HasSubstr("scalar"));
  const auto scalar = block_selection::Find("scalar");
  ASSERT_TRUE(scalar.ok());
  EXPECT_STREQ((*scalar)->name, "scalar");
}

}  // namespace
}  // namespace tributary
