// The algebra of attention/README.md, on random inputs, against the f64 reference.
#include "attention/merge.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "attention/merge_all.h"
#include "attention/reference.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

struct Partial {
  std::vector<float> out;
  std::vector<float> lse_ln;

  AttentionPartialView view() { return {out, lse_ln}; }
  ConstAttentionPartialView const_view() const { return {out, lse_ln}; }
  friend bool operator==(const Partial&, const Partial&) = default;
};

Partial Empty(const AttentionShape& shape) {
  return {std::vector<float>(size_t{shape.num_q_heads} * shape.head_dim),
          std::vector<float>(shape.num_q_heads, kEmptyLse)};
}

Partial Merge(const AttentionShape& shape, const std::vector<Partial>& partials) {
  std::vector<ConstAttentionPartialView> views;
  for (const Partial& partial : partials) views.push_back(partial.const_view());
  Partial merged = Empty(shape);
  MergePartials(views, shape.head_dim, merged.view());
  return merged;
}

Partial RoundToF32(const ReferencePartial& reference) {
  return {std::vector<float>(reference.out.begin(), reference.out.end()),
          std::vector<float>(reference.lse_ln.begin(), reference.lse_ln.end())};
}

struct Context {
  AttentionShape shape;
  uint64_t num_tokens;
  std::vector<float> q, k, v;

  ReferencePartial Attend(std::optional<TokenRange> visible, std::span<const float> sink_logits = {}) const {
    ReferenceInput input;
    input.sink_logits = sink_logits;
    input.shape = shape;
    input.softmax_scale = 1 / std::sqrt(double{static_cast<double>(shape.head_dim)});
    input.q = q;
    input.k = std::as_bytes(std::span(k));
    input.v = std::as_bytes(std::span(v));
    input.visible = visible;
    return ReferenceAttention(input);
  }
};

// Scores from near 0 to some hundred, so that both flat and one-hot softmax occur.
Context RandomContext(std::mt19937_64& random) {
  Context context;
  const uint32_t group_size = RandomInt(random, 1u, 4u);
  context.shape.num_kv_heads = RandomInt(random, 1u, 3u);
  context.shape.num_q_heads = group_size * context.shape.num_kv_heads;
  context.shape.head_dim = RandomInt(random, 1u, 40u);
  context.num_tokens = RandomInt<uint64_t>(random, 1, 120);
  std::normal_distribution<float> normal;
  const float q_size = std::ldexp(1.0f, RandomInt(random, -3, 6));
  context.q.resize(size_t{context.shape.num_q_heads} * context.shape.head_dim);
  context.k.resize(context.num_tokens * context.shape.num_kv_heads * context.shape.head_dim);
  context.v.resize(context.k.size());
  for (float& x : context.q) x = q_size * normal(random);
  for (float& x : context.k) x = normal(random);
  for (float& x : context.v) x = normal(random);
  return context;
}

// Disjoint ranges that cover the context; some are empty.
std::vector<TokenRange> RandomSplit(std::mt19937_64& random, uint64_t num_tokens) {
  std::vector<uint64_t> cuts(RandomInt<size_t>(random, 0, 12));
  for (uint64_t& cut : cuts) cut = RandomInt<uint64_t>(random, 0, num_tokens);
  cuts.push_back(0);
  cuts.push_back(num_tokens);
  std::sort(cuts.begin(), cuts.end());
  std::vector<TokenRange> ranges;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) ranges.push_back({cuts[i], cuts[i + 1]});
  return ranges;
}

double MaxAbs(const auto& values) {
  double max = 0;
  for (double value : values) {
    if (std::isfinite(value)) max = std::max(max, std::abs(value));
  }
  return max;
}

// docs/numerics.md, "Merging": n partials whose lse_ln are at most L in size.
double WeightErrorBound(size_t n, double max_lse) {
  return std::ldexp(1.0, -24) * (8 * max_lse + 12 * static_cast<double>(n) + 16);
}

TEST(MergeTest, AnySplitInAnyOrderEqualsTheReference) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    const Context context = RandomContext(random);
    const ReferencePartial whole = context.Attend(std::nullopt);
    std::vector<Partial> partials;
    double max_lse = 0;
    for (TokenRange range : RandomSplit(random, context.num_tokens)) {
      partials.push_back(RoundToF32(context.Attend(range)));
      max_lse = std::max(max_lse, MaxAbs(partials.back().lse_ln));
    }
    std::shuffle(partials.begin(), partials.end(), random);
    const Partial merged = Merge(context.shape, partials);
    const double bound = WeightErrorBound(partials.size(), max_lse);
    for (size_t i = 0; i < whole.lse_ln.size(); ++i) {
      ASSERT_NEAR(merged.lse_ln[i], whole.lse_ln[i], bound) << "round " << round;
    }
    const double out_bound = bound * MaxAbs(context.v);
    for (size_t i = 0; i < whole.out.size(); ++i) {
      ASSERT_NEAR(merged.out[i], whole.out[i], out_bound) << "round " << round;
    }
  }
}

// One partial takes the sinks in, whichever it is, and be it empty.
TEST(MergeTest, ASinkInOnePartialIsOneOfTheWhole) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    const Context context = RandomContext(random);
    std::normal_distribution<float> normal(0, 30);
    std::vector<float> sinks(context.shape.num_q_heads);
    for (float& sink : sinks) sink = normal(random);
    const ReferencePartial whole = context.Attend(std::nullopt, sinks);
    std::vector<Partial> partials = {Empty(context.shape)};
    double max_lse = MaxAbs(sinks);
    for (TokenRange range : RandomSplit(random, context.num_tokens)) {
      partials.push_back(RoundToF32(context.Attend(range)));
      max_lse = std::max(max_lse, MaxAbs(partials.back().lse_ln));
    }
    Partial& takes = partials[RandomInt<size_t>(random, 0, partials.size() - 1)];
    for (size_t head = 0; head < sinks.size(); ++head) {
      const float factor = FoldSink(sinks[head], &takes.lse_ln[head]);
      for (uint32_t d = 0; d < context.shape.head_dim; ++d) takes.out[head * context.shape.head_dim + d] *= factor;
    }
    const Partial merged = Merge(context.shape, partials);
    // The sink is one more partial, and its fold one more merge.
    const double bound = 2 * WeightErrorBound(partials.size() + 1, max_lse);
    for (size_t i = 0; i < whole.lse_ln.size(); ++i) ASSERT_NEAR(merged.lse_ln[i], whole.lse_ln[i], bound) << round;
    for (size_t i = 0; i < whole.out.size(); ++i) {
      ASSERT_NEAR(merged.out[i], whole.out[i], bound * MaxAbs(context.v)) << "round " << round;
    }
  }
}

// Merging merges: ((a b) c) and (a (b c)) agree with (a b c) within the bound.
TEST(MergeTest, AssociativeWithinTheBound) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 100; ++round) {
    const Context context = RandomContext(random);
    const uint64_t a = RandomInt<uint64_t>(random, 0, context.num_tokens);
    const uint64_t b = RandomInt<uint64_t>(random, a, context.num_tokens);
    const AttentionShape& shape = context.shape;
    const Partial p = RoundToF32(context.Attend(TokenRange{0, a}));
    const Partial q = RoundToF32(context.Attend(TokenRange{a, b}));
    const Partial r = RoundToF32(context.Attend(TokenRange{b, context.num_tokens}));
    const Partial left = Merge(shape, {Merge(shape, {p, q}), r});
    const Partial right = Merge(shape, {p, Merge(shape, {q, r})});
    const double max_lse = std::max({MaxAbs(p.lse_ln), MaxAbs(q.lse_ln), MaxAbs(r.lse_ln)});
    const double bound = 2 * WeightErrorBound(4, max_lse);
    for (size_t i = 0; i < left.lse_ln.size(); ++i) {
      ASSERT_NEAR(left.lse_ln[i], right.lse_ln[i], bound);
    }
    for (size_t i = 0; i < left.out.size(); ++i) {
      ASSERT_NEAR(left.out[i], right.out[i], bound * MaxAbs(context.v));
    }
  }
}

// Exact, bit for bit: empties anywhere change nothing, whatever an empty's `out` holds.
TEST(MergeTest, EmptyIsExactlyNeutral) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 100; ++round) {
    const Context context = RandomContext(random);
    std::vector<Partial> partials;
    std::vector<Partial> with_empties;
    for (TokenRange range : RandomSplit(random, context.num_tokens)) {
      partials.push_back(RoundToF32(context.Attend(range)));
      while (RandomInt(random, 0, 1) == 0) {
        Partial empty = Empty(context.shape);
        std::fill(empty.out.begin(), empty.out.end(), std::nanf(""));
        with_empties.push_back(empty);
      }
      with_empties.push_back(partials.back());
    }
    ASSERT_EQ(Merge(context.shape, with_empties), Merge(context.shape, partials));
    const Partial one = RoundToF32(context.Attend(std::nullopt));
    ASSERT_EQ(Merge(context.shape, {Empty(context.shape), one, Empty(context.shape)}), one);
  }
}

TEST(MergeTest, OnlyEmptiesGiveTheEmpty) {
  const AttentionShape shape{2, 1, 3};
  EXPECT_EQ(Merge(shape, {}), Empty(shape));
  EXPECT_EQ(Merge(shape, {Empty(shape), Empty(shape)}), Empty(shape));
  MergeState state;
  const MergeWeights weights = state.Fold(kEmptyLse);
  EXPECT_EQ(weights.keep, 1.0f);
  EXPECT_EQ(weights.add, 0.0f);
  EXPECT_EQ(state.LseLn(), kEmptyLse);
  EXPECT_EQ(state.Normaliser(), 0.0f);
}

// A gap of 200 in lse is a factor of e^200: f32 would overflow without the running maximum.
TEST(MergeTest, FarApartPartialsKeepTheLargerOne) {
  const AttentionShape shape{1, 1, 2};
  const Partial small{{1, 2}, {-100}};
  const Partial large{{3, 4}, {100}};
  EXPECT_EQ(Merge(shape, {small, large}), large);
  EXPECT_EQ(Merge(shape, {large, small}), large);
}

TEST(MergeTest, EqualPartialsAverage) {
  const AttentionShape shape{1, 1, 2};
  const Partial merged = Merge(shape, {Partial{{1, 2}, {5}}, Partial{{3, 6}, {5}}});
  EXPECT_THAT(merged.out, testing::ElementsAre(2, 4));
  EXPECT_FLOAT_EQ(merged.lse_ln[0], 5 + std::log(2.0f));
}

TEST(MergeTest, MayMergeInPlace) {
  const AttentionShape shape{1, 1, 2};
  const Partial a{{1, 2}, {5}};
  const Partial b{{3, 7}, {4.5}};
  const Partial apart = Merge(shape, {a, b});
  for (bool into_first : {true, false}) {
    Partial x = a;
    Partial y = b;
    const std::vector<ConstAttentionPartialView> views = {x.const_view(), y.const_view()};
    Partial& target = into_first ? x : y;
    MergePartials(views, shape.head_dim, target.view());
    EXPECT_EQ(target, apart);
  }
}

TEST(MergeDeathTest, ShapesMustAgree) {
  Partial a{{1, 2}, {5}};
  const Partial b{{3, 7, 1}, {4.5}};
  const std::vector<ConstAttentionPartialView> views = {b.const_view()};
  EXPECT_DEATH(MergePartials(views, 2, a.view()), "check failed");
}

}  // namespace
}  // namespace tributary
