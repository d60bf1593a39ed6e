// Products with rows that are stored in 8, 16 or 32 bits (gpu_worker/device/host/stored_rows-inl.h), of every
// instruction set that this machine has, against f64.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gpu_worker/device/host/row_kernels.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr double kUlp = 0x1p-24;
// Ragged around vectors of 4, 8 and 16, around a group of int8, and real ones.
constexpr size_t kWidths[] = {1, 7, 16, 63, 64, 65, 100, 576};

// Stored rows that begin at an odd byte, with the values that they stand for.
struct Rows {
  Rows(DType dtype, size_t rows, size_t cols, std::mt19937_64& random) : dtype(dtype), cols(cols) {
    std::normal_distribution<float> normal;
    const size_t element_bytes = dtype == DType::kInt8 ? 1 : DTypeBytes(dtype);
    bytes.resize(1 + rows * cols * element_bytes);
    values.resize(rows * cols);
    for (float& value : values) value = normal(random);
    if (dtype != DType::kInt8) {
      ConvertFromF32(dtype, values.data(), values.size(), data());
      ConvertToF32(dtype, data(), values.size(), values.data());
      return;
    }
    const size_t groups = (cols + kInt8GroupInputs - 1) / kInt8GroupInputs;
    scales.resize(rows * groups);
    for (float& scale : scales) scale = std::abs(normal(random)) * 0.01f;
    for (size_t i = 0; i < values.size(); ++i) {
      const auto code = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
      std::memcpy(data() + i, &code, 1);
      values[i] = static_cast<float>(code) * scales[i / cols * groups + i % cols / kInt8GroupInputs];
    }
  }
  std::byte* data() { return bytes.data() + 1; }

  DType dtype;
  size_t cols;
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  std::vector<float> values;
};

std::vector<float> RandomFloats(size_t count, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

class StoredRowsTest : public ::testing::TestWithParam<DType> {
 protected:
  std::mt19937_64 random_{TestSeed()};
};

// Calls check(functions) for each instruction set.
template <typename Check>
void ForEachIsa(DType dtype, const Check& check) {
  for (const RowKernels& kernels : SupportedRowKernels()) {
    SCOPED_TRACE(kernels.name);
    check(kernels.stored_as(dtype));
  }
}

TEST_P(StoredRowsTest, MatVecIsWithinItsBoundOfF64) {
  for (const size_t in : kWidths) {
    for (const size_t out : {1, 3, 4, 9}) {
      Rows w(GetParam(), out, in, random_);
      const size_t rows = 7, ld_x = in + 3, ld_y = out + 2;
      const std::vector<float> x = RandomFloats(rows * ld_x, random_);
      ForEachIsa(GetParam(), [&](const StoredRowFunctions& functions) {
        std::vector<float> y(rows * ld_y, 77.0f);
        functions.mat_vec({w.data(), w.scales.data(), out, in, x.data(), ld_x, rows, y.data(), ld_y});
        for (size_t r = 0; r < rows; ++r) {
          for (size_t o = 0; o < out; ++o) {
            double exact = 0, magnitude = 0;
            for (size_t i = 0; i < in; ++i) {
              const double product = static_cast<double>(w.values[o * in + i]) * x[r * ld_x + i];
              exact += product;
              magnitude += std::abs(product);
            }
            // Two roundings of a product, one for each addition in its lane (four lanes at least), and four to add the
            // lanes up.
            const double bound = (static_cast<double>(in) / 4 + 8) * kUlp * magnitude;
            EXPECT_NEAR(y[r * ld_y + o], exact, bound) << in << " " << out << " " << r << " " << o;
          }
          for (size_t o = out; o < ld_y; ++o) EXPECT_EQ(y[r * ld_y + o], 77.0f);
        }
      });
    }
  }
}

TEST_P(StoredRowsTest, ARowIsTheSameInBatchesOfAnySizeAndTilesOfAnyHeight) {
  const size_t in = 100, out = 11, rows = 9;
  Rows w(GetParam(), out, in, random_);
  const std::vector<float> x = RandomFloats(rows * in, random_);
  ForEachIsa(GetParam(), [&](const StoredRowFunctions& functions) {
    std::vector<float> all(rows * out), one(1);
    functions.mat_vec({w.data(), w.scales.data(), out, in, x.data(), in, rows, all.data(), out});
    const size_t row_bytes = (w.bytes.size() - 1) / out, groups = w.scales.size() / out;
    for (size_t r = 0; r < rows; ++r) {
      for (size_t o = 0; o < out; ++o) {
        functions.mat_vec(
            {w.data() + o * row_bytes, w.scales.data() + o * groups, 1, in, x.data() + r * in, in, 1, one.data(), 1});
        EXPECT_EQ(one[0], all[r * out + o]) << r << " " << o;
      }
    }
  });
}

TEST_P(StoredRowsTest, WideningGivesTheValues) {
  for (const size_t cols : kWidths) {
    Rows w(GetParam(), 3, cols, random_);
    ForEachIsa(GetParam(), [&](const StoredRowFunctions& functions) {
      std::vector<float> out(3 * cols + 1, 77.0f);
      functions.widen({w.data(), w.scales.data(), 3, cols, out.data()});
      EXPECT_EQ(out.back(), 77.0f);
      out.pop_back();
      EXPECT_EQ(out, w.values) << cols;
    });
  }
}

TEST_P(StoredRowsTest, WeightedSumIsWithinItsBoundOfF64AndTheSameForAnyNumberOfRows) {
  if (GetParam() == DType::kInt8) GTEST_SKIP() << "KV at rest on a device is f32, bf16 or f16";
  for (const size_t dim : {1, 7, 16, 64, 65, 80, 128}) {
    const size_t tokens = 37, rows = 6, ld_p = tokens + 5;
    Rows v(GetParam(), tokens, dim, random_);
    const std::vector<float> p = RandomFloats(rows * ld_p, random_), before = RandomFloats(rows * dim, random_);
    ForEachIsa(GetParam(), [&](const StoredRowFunctions& functions) {
      std::vector<float> out = before;
      functions.weighted_sum({v.data(), tokens, dim, p.data(), ld_p, rows, out.data()});
      for (size_t r = 0; r < rows; ++r) {
        std::vector<float> alone(before.begin() + static_cast<ptrdiff_t>(r * dim),
                                 before.begin() + static_cast<ptrdiff_t>((r + 1) * dim));
        functions.weighted_sum({v.data(), tokens, dim, p.data() + r * ld_p, ld_p, 1, alone.data()});
        for (size_t d = 0; d < dim; ++d) {
          double exact = before[r * dim + d], magnitude = std::abs(exact);
          for (size_t t = 0; t < tokens; ++t) {
            const double product = static_cast<double>(v.values[t * dim + d]) * p[r * ld_p + t];
            exact += product;
            magnitude += std::abs(product);
          }
          // A rounding of the product and one for each addition.
          EXPECT_NEAR(out[r * dim + d], exact, (static_cast<double>(tokens) + 1) * kUlp * magnitude);
          EXPECT_EQ(out[r * dim + d], alone[d]) << dim << " " << r << " " << d;
        }
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(All, StoredRowsTest, ::testing::Values(DType::kF32, DType::kBf16, DType::kF16, DType::kInt8),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

// Subnormals, infinities and NaN, too.
TEST(StoredRowsValuesTest, EveryValueOf16BitsIsWidenedAsBaseDoes) {
  std::vector<uint16_t> bits(1 << 16);
  for (size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<uint16_t>(i);
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    std::vector<float> expected(bits.size()), out(bits.size());
    ConvertToF32(dtype, bits.data(), bits.size(), expected.data());
    ForEachIsa(dtype, [&](const StoredRowFunctions& functions) {
      functions.widen({bits.data(), nullptr, 1, bits.size(), out.data()});
      for (size_t i = 0; i < bits.size(); ++i) {
        if (std::isnan(expected[i])) {
          EXPECT_TRUE(std::isnan(out[i])) << i;
        } else {
          EXPECT_EQ(out[i], expected[i]) << i;
        }
      }
    });
  }
}

}  // namespace
}  // namespace tributary
