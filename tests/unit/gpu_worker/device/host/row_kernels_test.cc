#include "gpu_worker/device/host/row_kernels.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

// One row of scores whose running maximum is already `max`.
struct OneRow {
  std::vector<float> scores;
  float max = 0;
  float sum = 0;
  std::vector<float> out;
  float cap = 0;

  void Run(const RowKernels& kernels, float scale, ptrdiff_t visible) {
    kernels.online_softmax({.scores = scores.data(),
                            .ld = scores.size(),
                            .rows = 1,
                            .cols = scores.size(),
                            .first_row_visible = visible,
                            .scale = scale,
                            .soft_cap = cap,
                            .max = &max,
                            .sum = &sum,
                            .out = out.data(),
                            .head_dim = out.size()});
  }
};

TEST(RowKernelsTest, BaselineAlwaysRunsAndTheBestIsLast) {
  EXPECT_STREQ(SupportedRowKernels().front().name, "baseline");
  EXPECT_EQ(&BestRowKernels(), &SupportedRowKernels().back());
}

TEST(RowKernelsTest, ExpIsWithinTwoUlp) {
  for (const RowKernels& kernels : SupportedRowKernels()) {
    SCOPED_TRACE(kernels.name);
    OneRow row;
    constexpr int kCount = 200001;  // odd: the loop's remainder is tested too
    for (int i = 0; i < kCount; ++i) row.scores.push_back(-86.9f * static_cast<float>(i) / kCount);
    const std::vector<float> x = row.scores;
    row.Run(kernels, 1.0f, kCount);
    double worst_ulp = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(static_cast<double>(x[i]));
      const double ulp = std::nextafter(static_cast<float>(exact), INFINITY) - static_cast<float>(exact);
      worst_ulp = std::max(worst_ulp, std::abs(row.scores[i] - exact) / ulp);
    }
    EXPECT_LE(worst_ulp, 2.0);
    EXPECT_EQ(row.scores[0], 1.0f);
  }
}

TEST(RowKernelsTest, FoldsTilesIntoARunningSoftmax) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 20);
  for (const RowKernels& kernels : SupportedRowKernels()) {
    SCOPED_TRACE(kernels.name);
    constexpr size_t kRows = 5;
    constexpr size_t kCols = 37;
    constexpr size_t kDim = 3;
    constexpr float kScale = 0.3f;
    std::vector<float> max(kRows, -INFINITY), sum(kRows, 0), out(kRows * kDim, 0);
    std::vector<std::vector<double>> seen(kRows);
    for (const ptrdiff_t visible : {-2, 3, 36, 100}) {
      std::vector<float> scores(kRows * kCols);
      for (float& score : scores) score = normal(random);
      const std::vector<float> input = scores;
      const std::vector<float> old_out = out;
      const std::vector<float> old_max = max;
      kernels.online_softmax({.scores = scores.data(),
                              .ld = kCols,
                              .rows = kRows,
                              .cols = kCols,
                              .first_row_visible = visible,
                              .scale = kScale,
                              .max = max.data(),
                              .sum = sum.data(),
                              .out = out.data(),
                              .head_dim = kDim});
      for (size_t i = 0; i < kRows; ++i) {
        const ptrdiff_t sees = std::clamp<ptrdiff_t>(visible + static_cast<ptrdiff_t>(i), 0, kCols);
        for (size_t j = 0; j < kCols; ++j) {
          const double s = static_cast<double>(kScale) * input[i * kCols + j];
          if (static_cast<ptrdiff_t>(j) < sees) seen[i].push_back(s);
          const double expected = static_cast<ptrdiff_t>(j) < sees ? std::exp(s - max[i]) : 0.0;
          EXPECT_NEAR(scores[i * kCols + j], expected, 1e-5 * expected + 1e-37);
        }
        double expected_sum = 0;
        for (const double s : seen[i]) expected_sum += std::exp(s - max[i]);
        EXPECT_NEAR(sum[i], expected_sum, 1e-5 * expected_sum);
        if (!seen[i].empty()) {
          EXPECT_NEAR(max[i], *std::max_element(seen[i].begin(), seen[i].end()), 1e-5);
        }
        for (size_t d = 0; d < kDim; ++d) {
          if (old_max[i] == -INFINITY) continue;
          const double keep = std::exp(static_cast<double>(old_max[i]) - max[i]);
          EXPECT_NEAR(out[i * kDim + d], old_out[i * kDim + d] * keep, 1e-5);
        }
      }
      for (float& value : out) value += normal(random);  // stands for P V
    }
  }
}

TEST(RowKernelsTest, RowsThatSeeNothingStayEmpty) {
  for (const RowKernels& kernels : SupportedRowKernels()) {
    OneRow row{.scores = {1, 2, 3}, .max = -INFINITY, .sum = 0, .out = {}};
    row.Run(kernels, 1.0f, 0);
    EXPECT_EQ(row.max, -INFINITY);
    EXPECT_EQ(row.sum, 0);
    EXPECT_THAT(row.scores, ::testing::Each(0.0f));
  }
}

TEST(RowKernelsTest, NanIsNotHidden) {
  for (const RowKernels& kernels : SupportedRowKernels()) {
    OneRow row{.scores = {1, std::numeric_limits<float>::quiet_NaN(), 3}, .max = -INFINITY, .sum = 0, .out = {}};
    row.Run(kernels, 1.0f, 3);
    EXPECT_TRUE(std::isnan(row.sum)) << kernels.name;
  }
}

// Rows of a sliding window: each sees a stretch of columns that moves by one.
TEST(RowKernelsTest, RowsSeeStretchesOfColumns) {
  constexpr size_t kRows = 7, kCols = 40;
  for (const RowKernels& kernels : SupportedRowKernels()) {
    SCOPED_TRACE(kernels.name);
    std::vector<float> scores(kRows * kCols), max(kRows, -INFINITY), sum(kRows, 0.0f), out(kRows);
    for (size_t i = 0; i < scores.size(); ++i) scores[i] = std::sin(static_cast<float>(i));
    const std::vector<float> before = scores;
    kernels.online_softmax({.scores = scores.data(),
                            .ld = kCols,
                            .rows = kRows,
                            .cols = kCols,
                            .first_row_hidden = -3,
                            .first_row_visible = 2,
                            .scale = 1.5f,
                            .max = max.data(),
                            .sum = sum.data(),
                            .out = out.data(),
                            .head_dim = 1});
    for (size_t r = 0; r < kRows; ++r) {
      const size_t begin = r < 3 ? 0 : r - 3, end = r + 2;
      double highest = -INFINITY, total = 0;
      for (size_t c = begin; c < end; ++c) highest = std::max(highest, 1.5 * double{before[r * kCols + c]});
      for (size_t c = 0; c < kCols; ++c) {
        const bool seen = c >= begin && c < end;
        const double weight = seen ? std::exp(1.5 * double{before[r * kCols + c]} - highest) : 0.0;
        EXPECT_NEAR(scores[r * kCols + c], weight, 1e-6) << r << ", " << c;
        total += weight;
      }
      EXPECT_NEAR(max[r], highest, 1e-6) << r;
      EXPECT_NEAR(sum[r], total, 1e-5) << r;
    }
  }
}

TEST(RowKernelsTest, GeluMul) {
  for (const RowKernels& kernels : SupportedRowKernels()) {
    std::vector<float> gate, up, expected;
    for (int i = -503; i <= 503; ++i) {
      const double x = static_cast<double>(static_cast<float>(i) * 0.02f);
      gate.push_back(static_cast<float>(x));
      up.push_back(2.0f);
      expected.push_back(static_cast<float>(x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)))));
    }
    kernels.gelu_mul(gate.data(), up.data(), gate.size());
    for (size_t i = 0; i < gate.size(); ++i) {
      EXPECT_NEAR(gate[i], expected[i], 1e-6 * std::abs(expected[i]) + 1e-7) << kernels.name;
    }
  }
}

TEST(RowKernelsTest, ClampedSwiglu) {
  for (const RowKernels& kernels : SupportedRowKernels()) {
    std::vector<float> gate, up, expected;
    for (int i = -503; i <= 503; ++i) {
      const auto x = static_cast<double>(static_cast<float>(i) * 0.05f), y = -0.7 * x;
      gate.push_back(static_cast<float>(x));
      up.push_back(static_cast<float>(y));
      const double g = std::min(x, 7.0), u = std::clamp(double{up.back()}, -7.0, 7.0);
      expected.push_back(static_cast<float>(g / (1 + std::exp(-1.702 * g)) * (u + 1)));
    }
    gate.push_back(NAN);
    up.push_back(0);
    gate.push_back(1);
    up.push_back(NAN);
    kernels.clamped_swiglu(gate.data(), up.data(), gate.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_NEAR(gate[i], expected[i], 2e-6 * std::abs(expected[i]) + 1e-6) << kernels.name;
    }
    EXPECT_TRUE(std::isnan(gate[gate.size() - 2])) << kernels.name;
    EXPECT_TRUE(std::isnan(gate.back())) << kernels.name;
  }
}

// With weights of exp(score - max), a score is as exact as its weight shows.
TEST(RowKernelsTest, ScoresAreCapped) {
  for (const RowKernels& kernels : SupportedRowKernels()) {
    for (const float cap : {0.5f, 3.0f, 50.0f}) {
      OneRow row{.scores = {0, 1e-4f, -1e-4f, 0.7f, -0.7f, 5, -9, 80, -80, 1e30f, -INFINITY}, .max = -INFINITY};
      row.cap = cap;
      const std::vector<float> before = row.scores;
      row.Run(kernels, 0.75f, static_cast<ptrdiff_t>(before.size()));
      EXPECT_NEAR(row.max, cap, 1e-6 * cap) << kernels.name;
      for (size_t i = 0; i < before.size(); ++i) {
        const double score = cap * std::tanh(0.75 * double{before[i]} / cap);
        const double weight = std::exp(score - row.max);
        // Their exp goes no lower than about the smallest number that is not subnormal.
        EXPECT_NEAR(row.scores[i], weight, weight * (1e-6 + 4e-7 * cap) + 2e-38) << kernels.name << ", " << before[i];
      }
      OneRow nan{.scores = {1, NAN}, .max = -INFINITY};
      nan.cap = cap;
      nan.Run(kernels, 1.0f, 2);
      EXPECT_TRUE(std::isnan(nan.sum)) << kernels.name;
    }
  }
}

TEST(RowKernelsTest, SiluMul) {
  for (const RowKernels& kernels : SupportedRowKernels()) {
    std::vector<float> gate, up, expected;
    for (int i = -503; i <= 503; ++i) {
      const float x = static_cast<float>(i) * 0.2f;
      gate.push_back(x);
      up.push_back(2.0f);
      expected.push_back(static_cast<float>(2.0 * x / (1 + std::exp(-static_cast<double>(x)))));
    }
    kernels.silu_mul(gate.data(), up.data(), gate.size());
    for (size_t i = 0; i < gate.size(); ++i) {
      EXPECT_NEAR(gate[i], expected[i], 1e-6 * std::abs(expected[i]) + 1e-30) << kernels.name;
    }
  }
}

}  // namespace
}  // namespace tributary
