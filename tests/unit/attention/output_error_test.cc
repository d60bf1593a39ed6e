#include "attention/output_error.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "attention/reference.h"
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

std::vector<double> Merged(std::span<const ConstAttentionPartialView> partials, uint32_t head) {
  std::vector<double> out(kDim);
  double sum = 0;
  for (const ConstAttentionPartialView& partial : partials) {
    const double weight = std::exp(double{partial.lse_ln[head]});
    sum += weight;
    for (uint32_t d = 0; d < kDim; ++d) out[d] += weight * double{partial.out[head * kDim + d]};
  }
  for (double& value : out) value = sum == 0 ? 0 : value / sum;
  return out;
}

double Norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

// Two heads of two dims. Head 0: the window (1, 0) and a shard (0, 2) with the same mass each, of which the read part
// has a third of the mass and (0, 3). Merged: full (.5, 1), read (1, 0) * 3/4 + (0, 3) / 4 = (.75, .75). Head 1: the
// same both times, (0, 4).
TEST(OutputErrorTest, ByHand) {
  const std::vector<float> window_out = {1, 0, 0, 4}, read_out = {0, 3, 0, 4}, full_out = {0, 2, 0, 4};
  const std::vector<float> zero = {0, 0}, third = {std::log(1.0f / 3), 0};
  const ConstAttentionPartialView window{window_out, zero};
  const ConstAttentionPartialView read[] = {window, {read_out, third}}, full[] = {window, {full_out, zero}};
  const OutputDistance head = CompareOutputs(read, full, 0, 2);
  EXPECT_NEAR(head.distance, std::sqrt(0.25 * 0.25 + 0.25 * 0.25), 1e-6);
  EXPECT_NEAR(head.full_norm, std::sqrt(0.25 + 1), 1e-6);
  std::vector<float> errors(2);
  OutputErrors(read, full, 2, errors);
  EXPECT_NEAR(errors[0], std::sqrt(0.125) / 4, 1e-6) << "over the norm of head 1, the larger";
  EXPECT_EQ(errors[1], 0);
}

TEST(OutputErrorTest, IsTheDistanceOfTheMergedOutputsOverTheLargest) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 50; ++round) {
    const auto num_shards = RandomInt<size_t>(random, 1, 6);
    std::vector<Partial> partials = {RandomPartial(random)};  // the window
    std::vector<ConstAttentionPartialView> read, full;
    for (size_t i = 0; i < 2 * num_shards; ++i) partials.push_back(RandomPartial(random));
    if (round % 3 == 1) partials[1] = {};
    if (round % 2 == 0) read.push_back(partials[0]);
    if (round % 2 == 0) full.push_back(partials[0]);
    for (size_t i = 0; i < num_shards; ++i) {
      read.push_back(partials[1 + 2 * i]);
      full.push_back(partials[2 + 2 * i]);
    }
    std::vector<float> errors(kHeads);
    OutputErrors(read, full, kDim, errors);
    double largest = 0;
    for (uint32_t head = 0; head < kHeads; ++head) largest = std::max(largest, Norm(Merged(full, head)));
    for (uint32_t head = 0; head < kHeads; ++head) {
      std::vector<double> difference = Merged(read, head);
      const std::vector<double> of_all = Merged(full, head);
      for (uint32_t d = 0; d < kDim; ++d) difference[d] -= of_all[d];
      EXPECT_NEAR(errors[head], Norm(difference) / largest, 1e-5);
    }
  }
}

// Attention over all tokens, and over every second of two shards', in f64; the parts as f32 partials.
TEST(OutputErrorTest, IsThatOfTheReference) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  const AttentionShape shape{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
  constexpr size_t kTokens = 60, kRow = 16;
  std::vector<float> q(32), k(kTokens * kRow), v(kTokens * kRow);
  for (std::vector<float>* values : {&q, &k, &v}) {
    for (float& value : *values) value = normal(random);
  }
  const auto over = [&](const std::vector<size_t>& tokens) {
    std::vector<float> some_k, some_v;
    for (const size_t t : tokens) {
      some_k.insert(some_k.end(), k.begin() + t * kRow, k.begin() + (t + 1) * kRow);
      some_v.insert(some_v.end(), v.begin() + t * kRow, v.begin() + (t + 1) * kRow);
    }
    return ReferenceAttention({.shape = shape,
                               .softmax_scale = 0.3,
                               .q = q,
                               .k = std::as_bytes(std::span(some_k)),
                               .v = std::as_bytes(std::span(some_v))});
  };
  const auto range = [](size_t begin, size_t end, size_t step) {
    std::vector<size_t> tokens;
    for (size_t t = begin; t < end; t += step) tokens.push_back(t);
    return tokens;
  };
  std::vector<std::vector<float>> memory;
  const auto rounded = [&](const ReferencePartial& partial) {
    memory.emplace_back(partial.out.begin(), partial.out.end());
    memory.emplace_back(partial.lse_ln.begin(), partial.lse_ln.end());
    return ConstAttentionPartialView{memory[memory.size() - 2], memory.back()};
  };
  memory.reserve(16);
  const ConstAttentionPartialView window = rounded(over(range(40, 60, 1)));
  const ConstAttentionPartialView full[] = {window, rounded(over(range(0, 25, 1))), rounded(over(range(25, 40, 1)))};
  const ConstAttentionPartialView read[] = {window, rounded(over(range(0, 25, 2))), rounded(over(range(26, 40, 2)))};
  std::vector<float> errors(4);
  OutputErrors(read, full, 8, errors);
  std::vector<size_t> kept = range(40, 60, 1);
  for (const auto& tokens : {range(0, 25, 2), range(26, 40, 2)}) kept.insert(kept.end(), tokens.begin(), tokens.end());
  const ReferencePartial of_all = over(range(0, 60, 1)), of_kept = over(kept);
  double norms[4] = {}, distances[4] = {};
  for (size_t i = 0; i < 32; ++i) {
    norms[i / 8] += of_all.out[i] * of_all.out[i];
    distances[i / 8] += (of_kept.out[i] - of_all.out[i]) * (of_kept.out[i] - of_all.out[i]);
  }
  const double largest = std::sqrt(*std::max_element(norms, norms + 4));
  for (size_t head = 0; head < 4; ++head) {
    EXPECT_GT(errors[head], 0.01f);
    // Rounding of out and lse_ln to f32, and of the weights: some units in the last place of numbers around 1.
    EXPECT_NEAR(errors[head], std::sqrt(distances[head]) / largest, 3e-6);
  }
}

TEST(OutputErrorTest, WhatIsTheSameHasNoError) {
  std::vector<float> errors(kHeads, 7.0f);
  const Partial empty;
  OutputErrors({{ConstAttentionPartialView(empty)}}, {{ConstAttentionPartialView(empty)}}, kDim, errors);
  for (const float error : errors) EXPECT_EQ(error, 0) << "nothing is there";
  std::mt19937_64 random(1);
  const std::vector<Partial> partials = {RandomPartial(random), RandomPartial(random), RandomPartial(random)};
  const std::vector<ConstAttentionPartialView> views(partials.begin(), partials.end());
  OutputErrors(views, views, kDim, errors);
  for (const float error : errors) EXPECT_EQ(error, 0);
}

TEST(OutputErrorTest, NanIsSeenUnlessItsPartialIsEmpty) {
  std::mt19937_64 random(1);
  const Partial resident = RandomPartial(random), full = RandomPartial(random);
  Partial read = full;
  read.out[2 * kDim] = NAN;
  std::vector<float> errors(kHeads);
  const std::vector<ConstAttentionPartialView> of_read = {resident, read}, of_all = {resident, full};
  OutputErrors(of_read, of_all, kDim, errors);
  EXPECT_TRUE(std::isnan(errors[2]));
  EXPECT_EQ(errors[1], 0);
  read.lse_ln[2] = kEmptyLse;
  OutputErrors(of_read, of_all, kDim, errors);
  EXPECT_GT(errors[2], 0);
}

}  // namespace
}  // namespace tributary
