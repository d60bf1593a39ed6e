// Every kernel that this machine supports, over tiles, against the f64 truth. Bounds: docs/numerics.md.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/unit/cpu_attention_service/kernels/kernel_case.h"

namespace tributary {
namespace {

using testing::ExpectedOfQuery;
using testing::ExpectNear;
using ::testing::HasSubstr;
using testing::KernelBounds;
using testing::KernelCall;
using testing::KernelCase;
using testing::KernelOutput;
using testing::KernelTiles;
using testing::RandomFloats;
using testing::TestSeed;

constexpr KvStorage kFloats[] = {KvStorage::kF32, KvStorage::kBf16, KvStorage::kF16};

// From 8 rows on, ISAs with a bf16 dot product take q in 16 bits where K is bf16 and q is not: 2^-17 of each element,
// which moves a score by some 3e-6 of its usual size (the bounds are ten times that), and `lse_ln` of a few tokens as
// much; and they round weights to bf16 where V is: each by up to 2^-9 of itself, and so `out`, a quotient of sums of
// them, by up to 2^-8 of its size.
KernelBounds BoundsOf(const CpuKernel& kernel, const KernelCase& c) {
  const bool rounds = std::string_view(kernel.name).find("bf16") != std::string_view::npos ||
                      std::string_view(kernel.name).find("amx") != std::string_view::npos;
  const bool many_rows = c.n_q * c.group_size >= 8;
  const bool rounds_q = rounds && many_rows && c.k_storage == KvStorage::kBf16 && !c.bf16_q;
  const bool rounds_weights = rounds && many_rows && c.v_storage == KvStorage::kBf16;
  const double score_sigma = std::max(1.0f, c.q_sigma);
  const double unrounded = rounds_q ? 1e-4 * score_sigma : 1e-5;
  const bool is_short = c.token_end - c.token_begin < 512;
  return {.out = rounds_weights ? 0x1p-8 + unrounded : unrounded,
          .lse_ln = rounds_q ? 3e-5 * score_sigma : 2e-6,
          .out_of_max = !rounds_weights ? unrounded
                        : is_short      ? INFINITY
                                        : 4e-3};
}

class DecodeAttentionTest : public ::testing::TestWithParam<const CpuKernel*> {
 protected:
  void SetUp() override {
    if (!cpu_kernels::IsSupported(kernel())) GTEST_SKIP() << kernel().name << ": not on this CPU";
  }
  const CpuKernel& kernel() const { return *GetParam(); }

  // Runs the call and compares every query token. seen(query, token).
  template <typename Seen>
  void Check(const KernelCase& c, KernelTiles& tiles, KernelCall& call, const Seen& seen) {
    const absl::Status valid = cpu_kernels::ValidateDecodeAttention(kernel(), WithOutputs(call), tiles.num_bytes());
    ASSERT_TRUE(valid.ok()) << valid;
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

  static DecodeAttentionArgs WithOutputs(const KernelCall& call) {
    static float dummy = 0;
    DecodeAttentionArgs args = call.args;
    args.q = args.out = args.lse_ln = &dummy;
    return args;
  }

  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
};

TEST_P(DecodeAttentionTest, AnyBeginAndEnd) {
  for (uint64_t end : {0u, 1u, 2u, 15u, 16u, 17u, 63u, 64u, 65u, 127u, 200u, 513u}) {
    for (uint64_t begin : {0u, 1u, 16u, 63u, 64u, 130u}) {
      if (begin > end) continue;
      KernelCase c;
      c.token_begin = begin;
      c.token_end = end;
      CheckRun(c);
      c.k_storage = c.v_storage = KvStorage::kBf16;
      CheckRun(c);
    }
  }
}

TEST_P(DecodeAttentionTest, HeadDims) {
  for (uint32_t head_dim : {1u, 8u, 16u, 24u, 32u, 64u, 72u, 80u, 96u, 112u, 128u, 192u, 256u}) {
    for (KvStorage storage : kFloats) {
      KernelCase c;
      c.k_storage = c.v_storage = storage;
      c.head_dim = head_dim;
      c.token_end = 150;
      CheckRun(c);
    }
  }
}

TEST_P(DecodeAttentionTest, GroupSizesAndQueryTokens) {
  for (uint32_t group_size : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 12u, 16u, 64u}) {
    for (uint32_t n_q : {1u, 3u, 8u}) {
      KernelCase c;
      c.k_storage = c.v_storage = kFloats[(group_size + n_q) % 3];
      c.group_size = group_size;
      c.n_q = n_q;
      CheckRun(c);
    }
  }
}

TEST_P(DecodeAttentionTest, StoragePairs) {
  for (KvStorage k : kFloats) {
    for (KvStorage v : kFloats) {
      KernelCase c;
      c.k_storage = k;
      c.v_storage = v;
      c.head_dim = 128;
      c.token_begin = 5;
      c.token_end = 200;
      CheckRun(c);
      c.bf16_q = true;
      CheckRun(c);
    }
  }
}

TEST_P(DecodeAttentionTest, SharpSoftmax) {  // the maximum moves, most weights vanish
  for (KvStorage storage : kFloats) {
    KernelCase c;
    c.k_storage = c.v_storage = storage;
    c.token_end = 600;
    c.q_sigma = 10;
    CheckRun(c);
  }
}

TEST_P(DecodeAttentionTest, SoftCap) {
  for (float cap : {0.5f, 5.0f, 50.0f}) {
    KernelCase c;
    c.soft_cap = cap;
    c.q_sigma = 4;
    c.token_end = 300;
    CheckRun(c);
  }
}

TEST_P(DecodeAttentionTest, CausalQueryTokens) {
  for (KvStorage storage : kFloats) {
    for (uint32_t n_q : {2u, 5u, 8u}) {
      KernelCase c;
      c.k_storage = c.v_storage = storage;
      c.n_q = n_q;
      c.token_end = 64 + random_() % 200;
      SCOPED_TRACE(c.Text());
      KernelTiles tiles(c, random_);
      KernelCall call(c, tiles.layout(), tiles.data(), random_);
      std::vector<uint64_t> visible_end;
      for (uint32_t i = 0; i < n_q; ++i) visible_end.push_back(c.token_end - n_q + 1 + i);
      visible_end[0] = random_() % 3 * 40;  // also none at all, and one that ends early
      call.args.visible_end = visible_end.data();
      Check(c, tiles, call, [&](uint32_t query, size_t t) { return t < visible_end[query]; });
    }
  }
}

TEST_P(DecodeAttentionTest, WhatARowDoesNotSeeCannotReachIt) {
  for (KvStorage storage : kFloats) {
    KernelCase c;
    c.k_storage = c.v_storage = storage;
    c.n_q = 2;
    c.token_end = 90;
    KernelTiles tiles(c, random_);
    std::vector<float> k = tiles.k(), v = tiles.v();
    for (uint32_t d = 0; d < c.head_dim; ++d) {
      k[89 * c.head_dim + d] = std::nanf("");
      v[89 * c.head_dim + d] = INFINITY;
    }
    tiles.Store(k, v);
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    const uint64_t visible_end[] = {89, 90};
    call.args.visible_end = visible_end;
    const KernelOutput output = call.Run(kernel());
    const size_t half = output.out.size() / 2;
    for (size_t i = 0; i < half; ++i) {
      ASSERT_TRUE(std::isfinite(output.out[i]));
      ASSERT_TRUE(std::isnan(output.out[half + i]));
    }
    EXPECT_TRUE(std::isfinite(output.lse_ln[0]));
    EXPECT_TRUE(std::isnan(output.lse_ln[c.group_size]));
  }
}

// Pieces with the given masks over random tiles, in random order.
TEST_P(DecodeAttentionTest, Pieces) {
  const auto mask_of = [&](int kind) -> uint64_t {
    switch (kind) {
      case 0:  // whole tiles
        return ~uint64_t{0};
      case 1:  // blocks of 16
        return uint64_t{0xffff} << (random_() % 4 * 16);
      case 2:  // blocks of 32
        return uint64_t{0xffffffff} << (random_() % 2 * 32);
      case 3:  // single tokens
        return uint64_t{1} << (random_() % 64);
      default:  // anything, nothing too
        return random_() & random_() & (random_() % 4 == 0 ? 0 : ~uint64_t{0});
    }
  };
  for (int kind = 0; kind < 5; ++kind) {
    for (KvStorage storage : kFloats) {
      for (bool causal : {false, true}) {
        KernelCase c;
        c.k_storage = c.v_storage = storage;
        c.n_q = causal ? 3 : 1;
        c.head_dim = random_() % 2 == 0 ? 128 : 80;
        c.token_end = 64 * 9;
        SCOPED_TRACE(::testing::Message() << c.Text() << " kind " << kind);
        KernelTiles tiles(c, random_);
        KernelCall call(c, tiles.layout(), tiles.data(), random_);
        std::vector<KvPiece> pieces;
        std::vector<bool> chosen(c.token_end);
        for (uint64_t tile = 0; tile < 9; ++tile) {
          if (random_() % 4 == 0) continue;
          const uint64_t mask = mask_of(kind);
          pieces.push_back({tiles.data() + tile * tiles.layout().record_bytes, mask, tile * 64});
          for (uint32_t t = 0; t < 64; ++t) chosen[tile * 64 + t] = (mask >> t & 1) != 0;
        }
        std::shuffle(pieces.begin(), pieces.end(), random_);
        pieces.reserve(1);  // not null
        call.args.pieces = pieces.data();
        call.args.num_pieces = static_cast<uint32_t>(pieces.size());
        const std::vector<uint64_t> visible_end = {100, 333, 1000};
        if (causal) call.args.visible_end = visible_end.data();
        Check(c, tiles, call,
              [&](uint32_t query, size_t t) { return chosen[t] && (!causal || t < visible_end[query]); });
      }
    }
  }
}

TEST_P(DecodeAttentionTest, NanInKReachesTheResult) {
  KernelCase c;
  KernelTiles tiles(c, random_);
  std::vector<float> k = tiles.k();
  k[99 * c.head_dim + 5] = std::nanf("");
  tiles.Store(k, tiles.v());
  const KernelOutput output = KernelCall(c, tiles.layout(), tiles.data(), random_).Run(kernel());
  for (float value : output.out) EXPECT_TRUE(std::isnan(value));
  for (float value : output.lse_ln) EXPECT_TRUE(std::isnan(value));
}

TEST_P(DecodeAttentionTest, NanInVReachesItsDimensionOnly) {
  for (KvStorage storage : kFloats) {
    KernelCase c;
    c.k_storage = c.v_storage = storage;
    KernelTiles tiles(c, random_);
    std::vector<float> v = tiles.v();
    v[50 * c.head_dim + 5] = std::nanf("");
    tiles.Store(tiles.k(), v);
    const KernelOutput output = KernelCall(c, tiles.layout(), tiles.data(), random_).Run(kernel());
    for (size_t i = 0; i < output.out.size(); ++i) {
      ASSERT_EQ(std::isnan(output.out[i]), i % c.head_dim == 5) << i;
    }
    for (float value : output.lse_ln) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST_P(DecodeAttentionTest, ATokenAloneGivesItsValueExactly) {
  for (KvStorage storage : kFloats) {
    KernelCase c;
    c.k_storage = c.v_storage = storage;
    c.token_end = 70;
    c.token_begin = 69;
    KernelTiles tiles(c, random_);
    const KernelOutput output = KernelCall(c, tiles.layout(), tiles.data(), random_).Run(kernel());
    for (size_t i = 0; i < output.out.size(); ++i) {
      ASSERT_EQ(output.out[i], tiles.v()[69 * c.head_dim + i % c.head_dim]);
    }
  }
}

// What 16 bits of q cost averages out over tokens.
TEST_P(DecodeAttentionTest, LseOfManyTokensIsWithinAMillionth) {
  for (uint32_t group_size : {4u, 8u}) {
    KernelCase c;
    c.k_storage = c.v_storage = KvStorage::kBf16;
    c.head_dim = 128;
    c.group_size = group_size;
    c.token_end = 4096;
    KernelTiles tiles(c, random_);
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    const KernelOutput output = call.Run(kernel());
    const auto expected = ExpectedOfQuery(call, 0, tiles.k(), tiles.v(), std::vector<bool>(c.token_end, true));
    KernelBounds bounds = BoundsOf(kernel(), c);
    bounds.lse_ln = 1e-6;
    ExpectNear(expected, output.out.data(), output.lse_ln.data(), c.head_dim, bounds);
  }
}

// Two slots at a time, of which a step at an edge may have an odd number; rows that make no block of 8.
TEST_P(DecodeAttentionTest, ManyRowsAnySlots) {
  for (uint32_t group_size : {8u, 9u, 14u, 16u}) {
    for (uint32_t slots = 1; slots <= 7; ++slots) {
      KernelCase c;
      c.k_storage = c.v_storage = KvStorage::kBf16;
      c.group_size = group_size;
      c.head_dim = 16 * (1 + static_cast<uint32_t>(random_() % 12));
      c.token_end = uint64_t{slots} * 16 - random_() % 3;
      c.token_begin = random_() % c.token_end;
      CheckRun(c);
    }
  }
}

TEST_P(DecodeAttentionTest, TheSameBitsEachTime) {
  KernelCase c;
  c.k_storage = c.v_storage = KvStorage::kBf16;
  c.group_size = random_() % 2 == 0 ? 4 : 8;
  c.token_end = 300;
  KernelTiles tiles(c, random_);
  KernelCall call(c, tiles.layout(), tiles.data(), random_);
  call.args.prefetch_bytes = 0;
  const KernelOutput first = call.Run(kernel());
  call.args.prefetch_bytes = 7168;
  const KernelOutput second = call.Run(kernel());
  EXPECT_EQ(first.out, second.out);
  EXPECT_EQ(first.lse_ln, second.lse_ln);
}

TEST_P(DecodeAttentionTest, BadCallsAreRefusedWithTheirValue) {
  KernelCase c;
  KernelTiles tiles(c, random_);
  const KernelCall good(c, tiles.layout(), tiles.data(), random_);
  KvTileLayout odd_layout = tiles.layout();
  odd_layout.record_bytes += 64;
  KvTileLayout no_dim = tiles.layout();
  no_dim.head_dim = 0;
  KvTileLayout no_storage = tiles.layout();
  no_storage.k_storage = static_cast<KvStorage>(99);
  const KvPiece misaligned = {tiles.data() + 8, 1, 0};
  const auto refused = [&](auto change, const char* text) {
    DecodeAttentionArgs args = WithOutputs(good);
    change(args);
    const absl::Status status = cpu_kernels::ValidateDecodeAttention(kernel(), args, tiles.num_bytes());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  refused([&](auto& a) { a.layout = nullptr; }, "layout must not be null");
  refused([&](auto& a) { a.layout = &odd_layout; }, "not the one of MakeKvTileLayout");
  refused([&](auto& a) { a.layout = &no_dim; }, "head_dim is 0");
  refused([&](auto& a) { a.layout = &no_storage; }, "K storage 99 does not exist");
  refused([&](auto& a) { a.group_size = 65; }, "group_size is 65");
  refused([&](auto& a) { a.n_q = 9; }, "n_q is 9");
  refused([&](auto& a) { a.softmax_scale = NAN; }, "softmax_scale is nan");
  refused([&](auto& a) { a.soft_cap = -1; }, "soft_cap is -1");
  refused([&](auto& a) { a.out = nullptr; }, "must not be null");
  alignas(float) std::byte bytes[2 * sizeof(float)];
  float* between = reinterpret_cast<float*>(bytes + 1);
  refused([&](auto& a) { a.q = between; }, "aligned to 4");
  refused([&](auto& a) { a.out = between; }, "aligned to 4");
  refused([&](auto& a) { a.lse_ln = between; }, "aligned to 4");
  refused([&](auto& a) { a.token_begin = 101; }, "[101, 100)");
  refused([&](auto& a) { a.token_end = 129; }, "129 need");
  refused([&](auto& a) { a.tiles = tiles.data() + 32; }, "aligned to 64");
  refused(
      [&](auto& a) {
        a.pieces = &misaligned;
        a.num_pieces = 1;
      },
      "piece 0");
}

std::vector<const CpuKernel*> AllKernels() {
  std::vector<const CpuKernel*> kernels;
  for (const CpuKernel& kernel : cpu_kernels::All()) kernels.push_back(&kernel);
  return kernels;
}

INSTANTIATE_TEST_SUITE_P(All, DecodeAttentionTest, ::testing::ValuesIn(AllKernels()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace tributary
