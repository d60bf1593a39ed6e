// The weights of tokens from a known lse, of every kernel that this machine supports, against the f64 truth.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/unit/cpu_attention_service/kernels/kernel_case.h"

namespace tributary {
namespace {

using testing::ExpectedOfQuery;
using testing::KernelCall;
using testing::KernelCase;
using testing::KernelOutput;
using testing::KernelTiles;
using testing::TestSeed;

constexpr KvStorage kStorages[] = {KvStorage::kF32,  KvStorage::kBf16, KvStorage::kF16,
                                   KvStorage::kInt8, KvStorage::kInt4, KvStorage::kFp8E4m3};

class TokenWeightsTest : public ::testing::TestWithParam<const CpuKernel*> {
 protected:
  void SetUp() override {
    if (!cpu_kernels::IsSupported(kernel())) GTEST_SKIP() << kernel().name << ": not on this CPU";
  }
  const CpuKernel& kernel() const { return *GetParam(); }

  // The weights of tokens [token_begin, token_end) on top of `before` each, the lse from the kernel's own attention.
  std::vector<float> Weigh(KernelCall& call, bool max_over_group, float before) {
    KernelOutput output = call.Run(kernel());
    const std::vector<float> lse_ln = output.lse_ln;
    std::vector<float> weights(call.args.token_end - call.args.token_begin, before);
    DecodeAttentionArgs args = call.args;
    args.q = call.q.data();
    args.out = nullptr;
    args.lse_ln = output.lse_ln.data();
    args.token_weights = weights.data();
    args.max_over_group = max_over_group;
    kernel().fn(args);
    EXPECT_EQ(output.lse_ln, lse_ln) << "only read";
    return weights;
  }

  static std::vector<double> Expected(const KernelCall& call, const KernelTiles& tiles, bool max_over_group) {
    const DecodeAttentionArgs& args = call.args;
    std::vector<double> sum(args.token_end - args.token_begin, 0.0);
    for (uint32_t query = 0; query < args.n_q; ++query) {
      std::vector<bool> seen(args.token_end);
      for (uint64_t t = args.token_begin; t < args.token_end; ++t) seen[t] = true;
      const auto all = ExpectedOfQuery(call, query, tiles.k(), tiles.v(), seen);
      for (uint64_t t = args.token_begin; t < args.token_end; ++t) {
        std::vector<bool> one(args.token_end);
        one[t] = true;
        const auto score = ExpectedOfQuery(call, query, tiles.k(), tiles.v(), one);
        double a = 0;
        for (uint32_t h = 0; h < args.group_size; ++h) {
          const double weight = std::exp(score.lse_ln[h] - all.lse_ln[h]);
          a = max_over_group ? std::max(a, weight) : a + weight / args.group_size;
        }
        sum[t - args.token_begin] += a;
      }
    }
    return sum;
  }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
};

TEST_P(TokenWeightsTest, AgreeWithTheTruth) {
  for (const KvStorage storage : kStorages) {
    for (const bool max_over_group : {false, true}) {
      KernelCase c;
      c.k_storage = storage;
      c.v_storage = kStorages[random_() % std::size(kStorages)];
      c.head_dim = 1 + static_cast<uint32_t>(random_() % 130);
      c.group_size = 1 + static_cast<uint32_t>(random_() % 12);
      c.n_q = 1 + static_cast<uint32_t>(random_() % 8);
      c.token_end = 1 + random_() % 90;
      c.token_begin = random_() % c.token_end;
      SCOPED_TRACE(c.Text());
      KernelTiles tiles(c, random_);
      KernelCall call(c, tiles.layout(), tiles.data(), random_);
      constexpr float kBefore = 0.5f;
      const std::vector<float> weights = Weigh(call, max_over_group, kBefore);
      const std::vector<double> expected = Expected(call, tiles, max_over_group);
      // An error of a score is a relative error of its weight; codes times codes have the largest (docs/numerics.md).
      const double bound = storage == KvStorage::kInt4 ? 0.2 : storage == KvStorage::kInt8 ? 1e-2 : 1e-3;
      double sum = 0;
      for (size_t t = 0; t < weights.size(); ++t) {
        ASSERT_NEAR(weights[t] - kBefore, expected[t], bound * expected[t] + 1e-6) << "token " << t;
        sum += weights[t] - kBefore;
      }
      // The kernel's own lse: whatever its scores, they are a distribution.
      if (!max_over_group) {
        EXPECT_NEAR(sum, c.n_q, 1e-4 * c.n_q);
      }
    }
  }
}

TEST_P(TokenWeightsTest, ANanInOneKeyIsANanForThatTokenAlone) {
  KernelCase c;
  c.token_end = 70;
  KernelTiles tiles(c, random_);
  KernelCall call(c, tiles.layout(), tiles.data(), random_);
  const KernelOutput output = call.Run(kernel());
  std::vector<float> k = tiles.k();
  k[size_t{33} * c.head_dim] = std::numeric_limits<float>::quiet_NaN();
  tiles.Store(k, tiles.v());
  for (const bool max_over_group : {false, true}) {
    std::vector<float> lse_ln = output.lse_ln, weights(c.token_end, 0.0f);
    DecodeAttentionArgs args = call.args;
    args.q = call.q.data();
    args.lse_ln = lse_ln.data();
    args.token_weights = weights.data();
    args.max_over_group = max_over_group;
    kernel().fn(args);
    for (size_t t = 0; t < weights.size(); ++t) EXPECT_EQ(std::isnan(weights[t]), t == 33) << t;
  }
}

TEST_P(TokenWeightsTest, TheOuterDoorRefusesPiecesAndMasks) {
  KernelCase c;
  KernelTiles tiles(c, random_);
  KernelCall call(c, tiles.layout(), tiles.data(), random_);
  float number = 0;
  DecodeAttentionArgs args = call.args;
  args.q = args.out = args.lse_ln = args.token_weights = &number;
  EXPECT_TRUE(cpu_kernels::ValidateDecodeAttention(kernel(), args, tiles.num_bytes()).ok());
  const uint64_t visible_end = 3;
  args.visible_end = &visible_end;
  EXPECT_FALSE(cpu_kernels::ValidateDecodeAttention(kernel(), args, tiles.num_bytes()).ok());
  args.visible_end = nullptr;
  const KvPiece piece;
  args.pieces = &piece;
  EXPECT_FALSE(cpu_kernels::ValidateDecodeAttention(kernel(), args, tiles.num_bytes()).ok());
}

std::vector<const CpuKernel*> AllKernels() {
  std::vector<const CpuKernel*> kernels;
  for (const CpuKernel& kernel : cpu_kernels::All()) kernels.push_back(&kernel);
  return kernels;
}
INSTANTIATE_TEST_SUITE_P(All, TokenWeightsTest, ::testing::ValuesIn(AllKernels()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace tributary
