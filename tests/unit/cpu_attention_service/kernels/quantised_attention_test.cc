// Every kernel that this machine supports, over quantised tiles: against the f64 reference on the dequantised values,
// and against the f64 truth before quantisation.
#include <gtest/gtest.h>

#include "attention/kv/kv_quantise.h"
#include "tests/unit/cpu_attention_service/kernels/kernel_case.h"

namespace tributary {
namespace {

using testing::ExpectedOfQuery;
using testing::ExpectNear;
using testing::KernelBounds;
using testing::KernelCall;
using testing::KernelCase;
using testing::KernelOutput;
using testing::KernelTiles;
using testing::RandomFloats;
using testing::TestSeed;

constexpr KvStorage kQuantised[] = {KvStorage::kInt8, KvStorage::kInt4, KvStorage::kFp8E4m3};
constexpr KvStorage kAllStorages[] = {KvStorage::kF32,  KvStorage::kBf16, KvStorage::kF16,
                                      KvStorage::kInt8, KvStorage::kInt4, KvStorage::kFp8E4m3};

// Kernels without dot products of codes compute in f32. The others round q (to 16 bits for int8, which costs 1e-4; to 8
// bits for int4, which costs a score some 0.7 % of its size) and weights (to bf16, or for int8 and int4 values to 8 or
// 16 bits of the largest of a step): docs/numerics.md.
KernelBounds BoundsOf(const CpuKernel& kernel, const KernelCase& c) {
  const std::string_view name = kernel.name;
  if (name == "scalar" || name == "avx2" || name == "avx512") return {1e-5, 2e-6, 2e-5};
  const bool is_int = c.v_storage == KvStorage::kInt8 || c.v_storage == KvStorage::kInt4;
  KernelBounds bounds = {is_int ? 8e-3 : 4e-3, 1e-4, is_int ? 1.5e-2 : 6e-3};
  if (c.k_storage == KvStorage::kInt4) {
    bounds.out += 2.5e-2 * c.q_sigma;
    bounds.out_of_max += 2.5e-2 * c.q_sigma;
    bounds.lse_ln = 2.5e-2 * c.q_sigma;
  }
  return bounds;
}

class QuantisedAttentionTest : public ::testing::TestWithParam<const CpuKernel*> {
 protected:
  void SetUp() override {
    if (!cpu_kernels::IsSupported(kernel())) GTEST_SKIP() << kernel().name << ": not on this CPU";
  }
  const CpuKernel& kernel() const { return *GetParam(); }

  template <typename Seen>
  void Check(const KernelCase& c, KernelTiles& tiles, KernelCall& call, const Seen& seen) {
    const KernelOutput output = call.Run(kernel());
    for (uint32_t query = 0; query < c.n_q; ++query) {
      std::vector<bool> mask(c.token_end);
      for (size_t t = 0; t < mask.size(); ++t) mask[t] = seen(query, t);
      const size_t row = size_t{query} * c.group_size;
      ExpectNear(ExpectedOfQuery(call, query, tiles.k(), tiles.v(), mask), output.out.data() + row * c.head_dim,
                 output.lse_ln.data() + row, c.head_dim, BoundsOf(kernel(), c));
    }
  }

  void CheckRun(const KernelCase& c) {
    SCOPED_TRACE(c.Text());
    KernelTiles tiles(c, random_);
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    Check(c, tiles, call, [&](uint32_t, size_t t) { return t >= c.token_begin; });
  }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
};

TEST_P(QuantisedAttentionTest, AnyBeginAndEnd) {
  for (uint64_t end : {0u, 1u, 2u, 15u, 16u, 17u, 63u, 64u, 65u, 127u, 200u, 513u}) {
    for (uint64_t begin : {0u, 1u, 16u, 63u, 64u, 130u}) {
      if (begin > end) continue;
      KernelCase c;
      c.token_begin = begin;
      c.token_end = end;
      c.k_storage = kQuantised[random_() % 3];
      c.v_storage = kQuantised[random_() % 3];
      CheckRun(c);
    }
  }
}

TEST_P(QuantisedAttentionTest, HeadDims) {
  for (uint32_t head_dim : {8u, 16u, 24u, 32u, 64u, 72u, 80u, 96u, 112u, 128u, 192u, 256u}) {
    for (KvStorage storage : kQuantised) {
      KernelCase c;
      c.k_storage = c.v_storage = storage;
      c.head_dim = head_dim;
      c.token_end = 150;
      CheckRun(c);
    }
  }
}

TEST_P(QuantisedAttentionTest, GroupSizesAndQueryTokens) {
  for (uint32_t group_size : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 12u, 16u, 64u}) {
    for (uint32_t n_q : {1u, 3u, 8u}) {
      KernelCase c;
      c.k_storage = c.v_storage = kQuantised[(group_size + n_q) % 3];
      c.group_size = group_size;
      c.n_q = n_q;
      CheckRun(c);
    }
  }
}

TEST_P(QuantisedAttentionTest, StoragePairs) {
  for (KvStorage k : kAllStorages) {
    for (KvStorage v : kAllStorages) {
      KernelCase c;
      c.k_storage = k;
      c.v_storage = v;
      c.head_dim = 128;
      c.token_begin = 5;
      c.token_end = 200;
      CheckRun(c);
    }
  }
}

TEST_P(QuantisedAttentionTest, SharpSoftmax) {  // the maximum moves, most weights vanish
  for (KvStorage storage : kQuantised) {
    KernelCase c;
    c.k_storage = c.v_storage = storage;
    c.token_end = 600;
    c.q_sigma = 10;
    CheckRun(c);
  }
}

// One token that outweighs each of the others by far, but not their sum: its neighbours must not be rounded away.
TEST_P(QuantisedAttentionTest, APeakDoesNotDrownItsNeighbours) {
  for (KvStorage storage : kQuantised) {
    for (uint64_t tokens : {64u, 640u}) {
      KernelCase c;
      c.k_storage = KvStorage::kF32;
      c.v_storage = storage;
      c.token_end = tokens;
      KernelTiles tiles(c, random_);
      KernelCall call(c, tiles.layout(), tiles.data(), random_);
      std::vector<float> k(tokens * c.head_dim, 0.0f);
      std::vector<float> v = RandomFloats(k.size(), random_);
      for (float& value : v) value = std::fabs(value);
      for (float& value : call.q) value = 1.0f;
      const uint64_t peak = random_() % tokens;
      for (uint32_t d = 0; d < c.head_dim; ++d) {
        k[peak * c.head_dim + d] = 6.5f / std::sqrt(static_cast<float>(c.head_dim));
        v[peak * c.head_dim + d] *= 0.01f;
      }
      tiles.Store(k, v);
      Check(c, tiles, call, [&](uint32_t, size_t) { return true; });
    }
  }
}

TEST_P(QuantisedAttentionTest, ManyTokens) {
  for (KvStorage storage : kQuantised) {
    KernelCase c;
    c.k_storage = c.v_storage = storage;
    c.head_dim = 128;
    c.token_end = 6000;
    c.q_sigma = 2;
    CheckRun(c);
  }
}

TEST_P(QuantisedAttentionTest, CausalQueryTokensAndHiddenNan) {
  for (KvStorage storage : kQuantised) {
    KernelCase c;
    c.k_storage = c.v_storage = storage;
    c.n_q = 4;
    c.token_end = 64 + random_() % 200;
    SCOPED_TRACE(c.Text());
    KernelTiles tiles(c, random_);
    const uint64_t last = c.token_end - 1;
    const std::vector<uint64_t> visible_end = {random_() % 3 * 40, last - 20, last, c.token_end};
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    call.args.visible_end = visible_end.data();
    Check(c, tiles, call, [&](uint32_t query, size_t t) { return t < visible_end[query]; });

    std::vector<float> k = tiles.k(), v = tiles.v();
    for (uint32_t d = 0; d < c.head_dim; ++d) {
      k[last * c.head_dim + d] = std::nanf("");
      v[last * c.head_dim + d] = INFINITY;
    }
    tiles.Store(k, v);
    const KernelOutput output = call.Run(kernel());
    const size_t row = size_t{c.group_size} * c.head_dim;
    for (size_t i = 0; i < row; ++i) {
      ASSERT_TRUE(std::isfinite(output.out[2 * row + i]));
      ASSERT_TRUE(std::isnan(output.out[3 * row + i]));
    }
  }
}

TEST_P(QuantisedAttentionTest, Pieces) {
  for (KvStorage k_storage : kQuantised) {
    for (KvStorage v_storage : kQuantised) {
      KernelCase c;
      c.k_storage = k_storage;
      c.v_storage = v_storage;
      c.head_dim = random_() % 2 == 0 ? 128 : 80;
      c.token_end = 64 * 9;
      SCOPED_TRACE(c.Text());
      KernelTiles tiles(c, random_);
      KernelCall call(c, tiles.layout(), tiles.data(), random_);
      std::vector<KvPiece> pieces;
      std::vector<bool> chosen(c.token_end);
      for (uint64_t tile = 0; tile < 9; ++tile) {
        const uint64_t masks[] = {~uint64_t{0}, uint64_t{0xffff} << (random_() % 4 * 16),
                                  uint64_t{1} << (random_() % 64), random_()};
        const uint64_t mask = masks[random_() % 4];
        pieces.push_back({tiles.data() + tile * tiles.layout().record_bytes, mask, tile * 64});
        for (uint32_t t = 0; t < 64; ++t) chosen[tile * 64 + t] = (mask >> t & 1) != 0;
      }
      std::shuffle(pieces.begin(), pieces.end(), random_);
      call.args.pieces = pieces.data();
      call.args.num_pieces = static_cast<uint32_t>(pieces.size());
      Check(c, tiles, call, [&](uint32_t, size_t t) { return chosen[t]; });
    }
  }
}

TEST_P(QuantisedAttentionTest, NanInATokenMakesItsHeadNan) {
  for (KvStorage storage : {KvStorage::kInt8, KvStorage::kInt4}) {
    for (bool in_k : {true, false}) {
      KernelCase c;
      c.k_storage = c.v_storage = storage;
      KernelTiles tiles(c, random_);
      std::vector<float> k = tiles.k(), v = tiles.v();
      (in_k ? k : v)[50 * c.head_dim + 5] = INFINITY;
      tiles.Store(k, v);
      const KernelOutput output = KernelCall(c, tiles.layout(), tiles.data(), random_).Run(kernel());
      for (float value : output.out) ASSERT_TRUE(std::isnan(value));
      for (float value : output.lse_ln) ASSERT_EQ(std::isnan(value), in_k);
    }
  }
}

TEST_P(QuantisedAttentionTest, NanInFp8ReachesItsDimensionOnly) {
  KernelCase c;
  c.k_storage = c.v_storage = KvStorage::kFp8E4m3;
  KernelTiles tiles(c, random_);
  std::vector<float> v = tiles.v();
  v[50 * c.head_dim + 5] = std::nanf("");
  tiles.Store(tiles.k(), v);
  const KernelOutput output = KernelCall(c, tiles.layout(), tiles.data(), random_).Run(kernel());
  for (size_t i = 0; i < output.out.size(); ++i) {
    ASSERT_EQ(std::isnan(output.out[i]), i % c.head_dim == 5) << i;
  }
}

// Extreme sizes: every code of fp8, subnormal ones too; rows of int8 and int4 from tiny to huge.
TEST_P(QuantisedAttentionTest, ExtremeValues) {
  for (KvStorage storage : kQuantised) {
    KernelCase c;
    c.k_storage = c.v_storage = storage;
    c.token_end = 128;
    KernelTiles tiles(c, random_);
    std::vector<float> k = tiles.k(), v = tiles.v();
    for (size_t i = 0; i < v.size(); ++i) {
      const int exponent = static_cast<int>(i / c.head_dim % 19) - 10;
      v[i] = std::ldexp(v[i], storage == KvStorage::kFp8E4m3 ? exponent : 5 * exponent);
      k[i] = std::ldexp(k[i], std::min(0, exponent / 4));
    }
    tiles.Store(k, v);
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    Check(c, tiles, call, [&](uint32_t, size_t) { return true; });
  }
}

// Against the truth before quantisation. A score is off by about softmax_scale * |q| * |error of a key|, which sets the
// error of `out`. Bounds are wide: they held in 300 runs, and are there to see a wrong scale or a lost rotation.
TEST_P(QuantisedAttentionTest, ErrorAgainstUnquantisedValues) {
  const auto bounds = [](KvStorage storage) -> KernelBounds {
    switch (storage) {
      case KvStorage::kInt8:
        return {0.06, 0.02, 0.06};
      case KvStorage::kInt4:
        return {0.9, 0.1, 0.9};
      default:
        return {0.25, 0.03, 0.25};
    }
  };
  for (KvStorage storage : kQuantised) {
    KernelCase c;
    c.head_dim = 128;
    c.token_end = 2000;
    KernelCase exact = c;
    c.k_storage = c.v_storage = storage;
    KernelTiles truth(exact, random_), tiles(c, random_);
    tiles.Store(truth.k(), truth.v());
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    const KernelOutput output = call.Run(kernel());
    ExpectNear(ExpectedOfQuery(call, 0, truth.k(), truth.v(), std::vector<bool>(2000, true)), output.out.data(),
               output.lse_ln.data(), c.head_dim, bounds(storage));
  }
}

TEST_P(QuantisedAttentionTest, TheSameBitsEachTime) {
  for (KvStorage storage : kQuantised) {
    KernelCase c;
    c.k_storage = c.v_storage = storage;
    c.token_end = 300;
    KernelTiles tiles(c, random_);
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    const KernelOutput first = call.Run(kernel()), second = call.Run(kernel());
    EXPECT_EQ(first.out, second.out);
    EXPECT_EQ(first.lse_ln, second.lse_ln);
  }
}

std::vector<const CpuKernel*> AllKernels() {
  std::vector<const CpuKernel*> kernels;
  for (const CpuKernel& kernel : cpu_kernels::All()) kernels.push_back(&kernel);
  return kernels;
}

INSTANTIATE_TEST_SUITE_P(All, QuantisedAttentionTest, ::testing::ValuesIn(AllKernels()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace tributary
