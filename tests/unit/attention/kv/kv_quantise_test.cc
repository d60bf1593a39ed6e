#include "attention/kv/kv_quantise.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "attention/kv/kv_pack.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr KvStorage kQuantised[] = {KvStorage::kInt8, KvStorage::kInt4, KvStorage::kFp8E4m3};

std::vector<float> RandomRow(std::mt19937_64& random, uint32_t head_dim, double deviation) {
  std::normal_distribution<double> normal(0, deviation);
  std::vector<float> row(head_dim);
  for (float& value : row) value = static_cast<float>(normal(random));
  return row;
}

// The rotation by its definition: entry (i, j) of a Hadamard matrix is (-1)^popcount(i & j) / sqrt(n).
std::vector<double> RotatedByDefinition(const std::vector<float>& row) {
  const size_t block = row.size() & (~row.size() + 1);
  std::vector<double> rotated(row.size());
  for (size_t i = 0; i < row.size(); ++i) {
    for (size_t j = 0; j < block; ++j) {
      const double sign = __builtin_popcountll((i % block) & j) % 2 == 0 ? 1 : -1;
      rotated[i] += sign * row[i / block * block + j] / std::sqrt(static_cast<double>(block));
    }
  }
  return rotated;
}

TEST(KvQuantise, RotationIsTheHadamardMatrixAndItsOwnInverse) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (uint32_t head_dim : {1u, 2u, 7u, 64u, 80u, 96u, 112u, 128u, 192u, 256u}) {
    const std::vector<float> row = RandomRow(random, head_dim, 1);
    std::vector<float> rotated = row;
    HadamardRotate(rotated.data(), head_dim);
    const std::vector<double> expected = RotatedByDefinition(row);
    for (uint32_t d = 0; d < head_dim; ++d) EXPECT_NEAR(rotated[d], expected[d], 1e-5);
    HadamardRotate(rotated.data(), head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) EXPECT_NEAR(rotated[d], row[d], 1e-5);
  }
}

TEST(KvQuantise, Fp8HasItsDefinedValuesAndRoundsToTheNearest) {
  for (int bits = 0; bits < 256; ++bits) {
    const uint8_t code = static_cast<uint8_t>(bits);
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(Fp8E4m3ToFloat(code)));
      continue;
    }
    const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
    const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 7 - 3);
    EXPECT_EQ(Fp8E4m3ToFloat(code), (bits & 0x80) != 0 ? -magnitude : magnitude);
    EXPECT_EQ(Fp8E4m3FromFloat(Fp8E4m3ToFloat(code)), code);
  }
  // Every midpoint goes to the even neighbour, and what lies beside it to the nearer one.
  for (int bits = 0; bits < 0x7e; ++bits) {
    const float low = Fp8E4m3ToFloat(static_cast<uint8_t>(bits));
    const float high = Fp8E4m3ToFloat(static_cast<uint8_t>(bits + 1));
    const float middle = (low + high) / 2;
    EXPECT_EQ(Fp8E4m3FromFloat(middle), bits + bits % 2);
    EXPECT_EQ(Fp8E4m3FromFloat(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(Fp8E4m3FromFloat(std::nextafter(middle, 1e9f)), bits + 1);
    EXPECT_EQ(Fp8E4m3FromFloat(-middle), 0x80 | (bits + bits % 2));
  }
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Fp8E4m3FromFloat(1e30f), 0x7e);
  EXPECT_EQ(Fp8E4m3FromFloat(-449.0f), 0xfe);
  EXPECT_EQ(Fp8E4m3FromFloat(infinity), 0x7f);
  EXPECT_EQ(Fp8E4m3FromFloat(-infinity), 0xff);
  EXPECT_EQ(Fp8E4m3FromFloat(std::numeric_limits<float>::quiet_NaN()) & 0x7f, 0x7f);
}

// Half a step of the scale, which is at most 2^-7 above largest / 127 or largest / 7.5.
TEST(KvQuantise, ErrorIsAtMostHalfAStepInTheRotatedBasis) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (KvStorage storage : {KvStorage::kInt8, KvStorage::kInt4}) {
    for (int run = 0; run < 200; ++run) {
      const uint32_t head_dim = RandomInt<uint32_t>(random, 1, 256);
      const std::vector<float> row = RandomRow(random, head_dim, std::ldexp(1.0, RandomInt(random, -60, 60)));
      std::vector<uint8_t> codes(head_dim);
      bf16_t scale;
      QuantiseKvRow(storage, row.data(), head_dim, codes.data(), &scale);
      std::vector<float> back(head_dim);
      DequantiseKvRow(storage, codes.data(), scale, head_dim, back.data());
      const std::vector<double> rotated = RotatedByDefinition(row);
      const std::vector<double> rotated_back = RotatedByDefinition(back);
      double largest = 0;
      for (double value : rotated) largest = std::max(largest, std::fabs(value));
      const double step = largest / (storage == KvStorage::kInt8 ? 127 : 7.5);
      EXPECT_GE(ToFloat(scale), step * (1 - 1e-5));
      EXPECT_LE(ToFloat(scale), step * (1 + 0x1p-7) * (1 + 1e-5));
      for (uint32_t d = 0; d < head_dim; ++d) {
        EXPECT_NEAR(rotated_back[d], rotated[d], 0.5 * ToFloat(scale) + 1e-5 * largest);
      }
    }
  }
}

TEST(KvQuantise, ZeroTinyAndNonFiniteRows) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity()};
  for (KvStorage storage : {KvStorage::kInt8, KvStorage::kInt4}) {
    for (float value : {0.0f, 1e-35f, -1e-42f}) {
      std::vector<float> row(64, value), back(64, 1.0f);
      std::vector<uint8_t> codes(64);
      bf16_t scale{1};
      QuantiseKvRow(storage, row.data(), 64, codes.data(), &scale);
      DequantiseKvRow(storage, codes.data(), scale, 64, back.data());
      for (float x : back) EXPECT_EQ(x, 0.0f);
    }
    for (float value : bad) {
      std::vector<float> row(80, 1.0f), back(80, 1.0f);
      row[17] = value;
      std::vector<uint8_t> codes(80);
      bf16_t scale{1};
      QuantiseKvRow(storage, row.data(), 80, codes.data(), &scale);
      DequantiseKvRow(storage, codes.data(), scale, 80, back.data());
      for (float x : back) EXPECT_TRUE(std::isnan(x));
    }
  }
}

// Tiles hold exactly what the quantiser said, whatever lay there before, and other tokens keep theirs.
TEST(KvQuantise, PackedRowsComeBackAsTheQuantiserMadeThem) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  for (KvStorage storage : kQuantised) {
    for (uint32_t head_dim : {64u, 80u, 112u, 128u, 256u}) {
      const KvTileLayout layout = MakeKvTileLayout(storage, storage, head_dim);
      const uint32_t num_tokens = 150;
      std::vector<float> k, v;
      for (uint32_t t = 0; t < num_tokens; ++t) {
        const auto row = RandomRow(random, head_dim, 3), other = RandomRow(random, head_dim, 1);
        k.insert(k.end(), row.begin(), row.end());
        v.insert(v.end(), other.begin(), other.end());
      }
      std::vector<std::byte> tiles(3 * layout.record_bytes + 64, std::byte{0xa5});
      KvPackArgs args;
      args.layout = layout;
      args.k_stride_bytes = args.v_stride_bytes = head_dim * sizeof(float);
      args.tiles = tiles.data();
      for (uint32_t begin = 0; begin < num_tokens;) {  // in pieces of any size
        const uint32_t end = std::min(num_tokens, begin + RandomInt<uint32_t>(random, 1, 40));
        args.k = k.data() + begin * head_dim;
        args.v = v.data() + begin * head_dim;
        args.num_tokens = end - begin;
        args.token_begin = begin;
        PackKvPlain(args);
        begin = end;
      }
      std::vector<float> k_back(k.size()), v_back(v.size()), expected(head_dim);
      UnpackKvToF32(layout, tiles.data(), 0, num_tokens, k_back.data(), v_back.data());
      for (uint32_t t = 0; t < num_tokens; ++t) {
        for (bool is_k : {true, false}) {
          const float* row = (is_k ? k : v).data() + t * head_dim;
          std::vector<uint8_t> codes(head_dim);
          bf16_t scale;
          QuantiseKvRow(storage, row, head_dim, codes.data(), &scale);
          DequantiseKvRow(storage, codes.data(), scale, head_dim, expected.data());
          const float* back = (is_k ? k_back : v_back).data() + t * head_dim;
          ASSERT_TRUE(std::equal(expected.begin(), expected.end(), back)) << "token " << t;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tributary
