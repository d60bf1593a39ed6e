#include "policy/fluxion/output_error.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr uint32_t kHeads = 5, kDim = 7;

struct Partial {
  std::vector<float> out = std::vector<float>(kHeads * kDim);
  std::vector<float> lse_ln = std::vector<float>(kHeads, kEmptyLse);
  operator ConstAttentionPartialView() const { return {out, lse_ln}; }  // NOLINT
};

Partial RandomPartial(std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  Partial partial;
  for (float& value : partial.out) value = normal(random);
  for (float& value : partial.lse_ln) value = normal(random);
  return partial;
}

std::vector<double> Merged(const Partial& a, const Partial& b, uint32_t head) {
  const double wa = std::exp(double{a.lse_ln[head]}), wb = std::exp(double{b.lse_ln[head]});
  std::vector<double> out(kDim);
  for (uint32_t d = 0; d < kDim && wa + wb > 0; ++d) {
    out[d] = (wa * double{a.out[head * kDim + d]} + wb * double{b.out[head * kDim + d]}) / (wa + wb);
  }
  return out;
}

double Norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

TEST(OutputErrorTest, IsTheDistanceOfTheMergedOutputsOverTheLargest) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 50; ++round) {
    Partial resident = RandomPartial(random), read = RandomPartial(random), full = RandomPartial(random);
    if (round % 3 == 1) read = {};
    std::vector<float> errors(kHeads);
    const bool has_resident = round % 2 == 0;
    if (!has_resident) resident = {};
    OutputErrors(has_resident ? ConstAttentionPartialView(resident) : ConstAttentionPartialView(), read, full, kDim,
                 errors);
    double largest = 0;
    for (uint32_t head = 0; head < kHeads; ++head) largest = std::max(largest, Norm(Merged(resident, full, head)));
    for (uint32_t head = 0; head < kHeads; ++head) {
      std::vector<double> difference = Merged(resident, read, head);
      const std::vector<double> of_all = Merged(resident, full, head);
      for (uint32_t d = 0; d < kDim; ++d) difference[d] -= of_all[d];
      EXPECT_NEAR(errors[head], Norm(difference) / largest, 1e-5);
    }
  }
}

TEST(OutputErrorTest, WhatIsTheSameHasNoError) {
  std::vector<float> errors(kHeads, 7.0f);
  OutputErrors({}, Partial(), Partial(), kDim, errors);
  for (const float error : errors) EXPECT_EQ(error, 0) << "nothing is there";
}

TEST(OutputErrorTest, NanIsSeen) {
  std::mt19937_64 random(1);
  const Partial resident = RandomPartial(random), full = RandomPartial(random);
  Partial read = full;
  read.out[2 * kDim] = NAN;
  std::vector<float> errors(kHeads);
  OutputErrors(resident, read, full, kDim, errors);
  EXPECT_TRUE(std::isnan(errors[2]));
  EXPECT_EQ(errors[1], 0);
}

}  // namespace
}  // namespace tributary
