// Piece lists whose rows differ, by masks or by given weights: every kernel and storage against the f64 reference.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/unit/cpu_attention_service/kernels/kernel_case.h"

namespace tributary {
namespace {

using testing::ExpectedOfQuery;
using testing::ExpectedPartial;
using testing::ExpectNear;
using testing::KernelBounds;
using testing::KernelCall;
using testing::KernelCase;
using testing::KernelOutput;
using testing::KernelTiles;
using testing::TestSeed;

constexpr KvStorage kStorages[] = {KvStorage::kF32,  KvStorage::kBf16, KvStorage::kF16,
                                   KvStorage::kInt8, KvStorage::kInt4, KvStorage::kFp8E4m3};

// The widest that decode_attention_test and quantised_attention_test allow.
KernelBounds BoundsOf(const KernelCase& c) {
  KernelBounds bounds = {8e-3, 1e-4};
  if (c.k_storage == KvStorage::kInt4) bounds = {8e-3 + 2.5e-2, 2.5e-2};
  return bounds;
}

// One row's part of a reference over all heads.
ExpectedPartial HeadOf(const ExpectedPartial& all, uint32_t head, uint32_t head_dim) {
  ExpectedPartial one;
  one.out.assign(all.out.begin() + head * head_dim, all.out.begin() + (head + 1) * head_dim);
  one.out_size = {all.out_size[head]};
  one.lse_ln = {all.lse_ln[head]};
  return one;
}

class PieceRowsTest : public ::testing::TestWithParam<const CpuKernel*> {
 protected:
  void SetUp() override {
    if (!cpu_kernels::IsSupported(kernel())) GTEST_SKIP() << kernel().name << ": not on this CPU";
  }
  const CpuKernel& kernel() const { return *GetParam(); }

  KernelCase RandomCase(KvStorage k, KvStorage v) {
    KernelCase c;
    c.k_storage = k;
    c.v_storage = v;
    c.head_dim = random_() % 2 == 0 ? 64 : 80;
    c.group_size = 1 + static_cast<uint32_t>(random_() % 12);
    c.n_q = 1 + static_cast<uint32_t>(random_() % 3);
    c.token_end = 64 * 7 - random_() % 60;
    return c;
  }

  // Blocks of 16, whole tiles, single tokens, ragged masks, nothing.
  uint64_t RandomMask() {
    switch (random_() % 5) {
      case 0:
        return uint64_t{0xffff} << (random_() % 4 * 16);
      case 1:
        return ~uint64_t{0};
      case 2:
        return uint64_t{1} << (random_() % 64);
      case 3:
        return random_() & random_();
      default:
        return 0;
    }
  }

  void MakePieces(const KernelCase& c, KernelTiles& tiles) {
    pieces_.clear();
    for (uint64_t tile = 0; tile < KvTilesFor(c.token_end); ++tile) {
      const uint64_t stored = c.token_end - tile * 64;
      const uint64_t room = stored >= 64 ? ~uint64_t{0} : (uint64_t{1} << stored) - 1;
      pieces_.push_back({tiles.data() + tile * tiles.layout().record_bytes, RandomMask() & room, tile * 64});
    }
  }

  std::vector<KvPiece> pieces_;
  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
};

TEST_P(PieceRowsTest, EachRowSeesWhatItsMaskSays) {
  for (KvStorage k : kStorages) {
    for (KvStorage v : kStorages) {
      const KernelCase c = RandomCase(k, v);
      SCOPED_TRACE(c.Text());
      KernelTiles tiles(c, random_);
      MakePieces(c, tiles);
      KernelCall call(c, tiles.layout(), tiles.data(), random_);
      const uint32_t num_rows = c.n_q * c.group_size;
      const uint32_t stride = num_rows + 3;
      std::vector<uint64_t> masks(pieces_.size() * stride);
      std::vector<std::vector<bool>> seen(num_rows, std::vector<bool>(c.token_end));
      const std::vector<uint64_t> visible_end = {c.token_end / 2, c.token_end, 3};
      const bool causal = random_() % 2 == 0;
      for (size_t i = 0; i < pieces_.size(); ++i) {
        for (uint32_t row = 0; row < num_rows; ++row) {
          // As the row before, part of the piece, all of it, or nothing; the last row never sees anything.
          uint64_t& mask = masks[i * stride + row];
          mask = row > 0 && random_() % 2 == 0 ? masks[i * stride + row - 1] : RandomMask() & pieces_[i].token_mask;
          if (row + 1 == num_rows) mask = 0;
          for (uint64_t t = i * 64; t < std::min<uint64_t>((i + 1) * 64, c.token_end); ++t) {
            if (causal && t >= visible_end[row / c.group_size]) continue;
            seen[row][t] = (mask >> (t % 64) & 1) != 0;
          }
        }
      }
      call.args.pieces = pieces_.data();
      call.args.num_pieces = static_cast<uint32_t>(pieces_.size());
      call.args.row_masks = masks.data();
      call.args.row_mask_stride = stride;
      if (causal) call.args.visible_end = visible_end.data();
      const KernelOutput output = call.Run(kernel());
      for (uint32_t row = 0; row < num_rows; ++row) {
        const uint32_t head = row % c.group_size;
        const auto all = ExpectedOfQuery(call, row / c.group_size, tiles.k(), tiles.v(), seen[row]);
        ExpectNear(HeadOf(all, head, c.head_dim), output.out.data() + size_t{row} * c.head_dim,
                   output.lse_ln.data() + row, c.head_dim, BoundsOf(c));
      }
      EXPECT_EQ(output.lse_ln.back(), -INFINITY) << "a mask that leaves a head nothing";
      EXPECT_EQ(output.out.back(), 0.0f);
    }
  }
}

// Masks that say what the pieces say change no bit.
TEST_P(PieceRowsTest, FullMasksAreNoMasks) {
  for (KvStorage storage : kStorages) {
    const KernelCase c = RandomCase(storage, storage);
    KernelTiles tiles(c, random_);
    MakePieces(c, tiles);
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    call.args.pieces = pieces_.data();
    call.args.num_pieces = static_cast<uint32_t>(pieces_.size());
    const KernelOutput plain = call.Run(kernel());
    const std::vector<uint64_t> masks(pieces_.size() * c.n_q * c.group_size, ~uint64_t{0});
    call.args.row_masks = masks.data();
    call.args.row_mask_stride = c.n_q * c.group_size;
    const KernelOutput masked = call.Run(kernel());
    EXPECT_EQ(plain.lse_ln, masked.lse_ln);
    EXPECT_EQ(plain.out, masked.out);
  }
}

TEST_P(PieceRowsTest, WhatARowDoesNotSeeCannotReachIt) {
  KernelCase c;
  c.group_size = 3;
  c.token_end = 64;
  for (KvStorage storage : {KvStorage::kF32, KvStorage::kBf16, KvStorage::kF16}) {
    c.k_storage = c.v_storage = storage;
    KernelTiles tiles(c, random_);
    std::vector<float> k = tiles.k(), v = tiles.v();
    for (uint32_t d = 0; d < c.head_dim; ++d) k[5 * c.head_dim + d] = v[5 * c.head_dim + d] = std::nanf("");
    tiles.Store(k, v);
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    const KvPiece piece = {tiles.data(), ~uint64_t{0}, 0};
    const uint64_t masks[] = {~uint64_t{0}, ~(uint64_t{1} << 5), uint64_t{1} << 40};
    call.args.pieces = &piece;
    call.args.num_pieces = 1;
    call.args.row_masks = masks;
    call.args.row_mask_stride = 3;
    const KernelOutput output = call.Run(kernel());
    EXPECT_TRUE(std::isnan(output.lse_ln[0]));
    for (uint32_t i = c.head_dim; i < output.out.size(); ++i) ASSERT_TRUE(std::isfinite(output.out[i])) << i;
    EXPECT_TRUE(std::isfinite(output.lse_ln[1]) && std::isfinite(output.lse_ln[2]));
    for (uint32_t d = 0; d < c.head_dim; ++d) {
      ASSERT_EQ(output.out[2 * c.head_dim + d], tiles.v()[40 * c.head_dim + d]) << "a token alone";
    }
  }
}

TEST_P(PieceRowsTest, GivenWeightsSumValues) {
  for (KvStorage storage : kStorages) {
    for (int round = 0; round < 3; ++round) {
      const KernelCase c = RandomCase(kStorages[random_() % 6], storage);
      SCOPED_TRACE(c.Text());
      KernelTiles tiles(c, random_);
      MakePieces(c, tiles);
      KernelCall call(c, tiles.layout(), tiles.data(), random_);
      std::vector<uint64_t> tokens;
      for (const KvPiece& piece : pieces_) {
        for (uint32_t t = 0; t < 64; ++t) {
          if ((piece.token_mask >> t & 1) != 0) tokens.push_back(piece.first_position + t);
        }
      }
      const uint32_t num_rows = c.n_q * c.group_size;
      const size_t stride = tokens.size() + 5;
      std::vector<float> weights(num_rows * stride);
      for (float& weight : weights) {
        weight = random_() % 3 == 0 ? 0.0f : std::exp(-20.0f * static_cast<float>(random_() % 1000) / 1000);
      }
      std::fill_n(weights.begin(), stride, 0.0f);  // the first row weighs nothing
      call.args.pieces = pieces_.data();
      call.args.num_pieces = static_cast<uint32_t>(pieces_.size());
      call.args.given_weights = weights.data();
      call.args.given_weight_stride = stride;
      const KernelOutput output = call.Run(kernel());
      for (uint32_t row = 0; row < num_rows; ++row) {
        double sum = 0;
        std::vector<double> out(c.head_dim), size(c.head_dim);
        for (size_t i = 0; i < tokens.size(); ++i) {
          const double weight = weights[row * stride + i];
          sum += weight;
          for (uint32_t d = 0; d < c.head_dim; ++d) {
            out[d] += weight * tiles.v()[tokens[i] * c.head_dim + d];
            size[d] += weight * std::abs(tiles.v()[tokens[i] * c.head_dim + d]);
          }
        }
        ExpectedPartial expected;
        for (double& value : out) expected.out.push_back(sum == 0 ? 0 : value / sum);
        expected.out_size = {sum == 0 ? 0 : *std::max_element(size.begin(), size.end()) / sum};
        expected.lse_ln = {sum == 0 ? -INFINITY : std::log(sum)};
        ExpectNear(expected, output.out.data() + size_t{row} * c.head_dim, output.lse_ln.data() + row, c.head_dim,
                   {8e-3, 1e-5});
      }
    }
  }
}

TEST_P(PieceRowsTest, WhatIsNoSuchCallIsRefused) {
  KernelCase c;
  KernelTiles tiles(c, random_);
  KernelCall call(c, tiles.layout(), tiles.data(), random_);
  float dummy = 0;
  const uint64_t mask = 0;
  const KvPiece piece;
  const auto message = [&](const DecodeAttentionArgs& args) {
    return std::string(cpu_kernels::ValidateDecodeAttention(kernel(), args, tiles.num_bytes()).message());
  };
  DecodeAttentionArgs args = call.args;
  args.q = args.out = args.lse_ln = &dummy;
  args.row_masks = &mask;
  EXPECT_THAT(message(args), ::testing::HasSubstr("of a list of pieces"));
  args.pieces = &piece;
  args.num_pieces = 1;
  args.row_mask_stride = 3;
  EXPECT_THAT(message(args), ::testing::HasSubstr("row_mask_stride is 3; there are 4 rows"));
  args.row_mask_stride = 4;
  EXPECT_EQ(message(args), "");
  args.given_weights = &dummy;
  EXPECT_THAT(message(args), ::testing::HasSubstr("given_weights say what each row sees"));
  args.row_masks = nullptr;
  args.q = nullptr;
  EXPECT_EQ(message(args), "");
}

std::vector<const CpuKernel*> AllKernels() {
  std::vector<const CpuKernel*> kernels;
  for (const CpuKernel& kernel : cpu_kernels::All()) kernels.push_back(&kernel);
  return kernels;
}

INSTANTIATE_TEST_SUITE_P(Kernels, PieceRowsTest, ::testing::ValuesIn(AllKernels()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace tributary
