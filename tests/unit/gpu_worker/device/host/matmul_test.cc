#include "gpu_worker/device/host/matmul.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gpu_worker/device/host/blas_library.h"
#include "gpu_worker/device/host/int8_matrix.h"
#include "gpu_worker/device/host/row_kernels.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

// Three stored parts of different types, and the matrix that they are together.
struct Stacked {
  Stacked(std::vector<std::pair<DType, size_t>> parts, size_t in, uint64_t seed) : view(in) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    for (const auto& [dtype, out] : parts) {
      std::vector<float> part(out * in);
      for (float& value : part) value = normal(random);
      bytes.emplace_back(part.size() * DTypeBytes(dtype));
      ConvertFromF32(dtype, part.data(), part.size(), bytes.back().data());
      ConvertToF32(dtype, bytes.back().data(), part.size(), part.data());
      values.insert(values.end(), part.begin(), part.end());
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      view.Append({bytes[i].data(), parts[i].first, nullptr, parts[i].second});
    }
  }
  std::vector<std::vector<std::byte>> bytes;
  std::vector<float> values;
  MatrixView view;
};

std::vector<float> RandomFloats(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

void ExpectProduct(const Stacked& w, size_t first, size_t out, const std::vector<float>& x, size_t rows,
                   const std::vector<float>& y, double before) {
  const size_t in = w.view.in;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t o = 0; o < out; ++o) {
      double exact = before, magnitude = std::abs(before);
      for (size_t i = 0; i < in; ++i) {
        const double product = static_cast<double>(w.values[(first + o) * in + i]) * x[r * in + i];
        exact += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(y[r * out + o], exact, (static_cast<double>(in) + 2) * 0x1p-24 * magnitude) << r << " " << o;
    }
  }
}

TEST(MatMulTest, PartsThatDoNotLieTogetherAreOneMatrix) {
  ASSERT_TRUE(BlasLibrary::Get().ok());
  // 70 rows: more than a tile of a decode step; 4200 inputs: more than one tile of widened rows.
  for (const size_t in : {size_t{33}, size_t{4200}}) {
    const Stacked w({{DType::kBf16, 70}, {DType::kF32, 5}, {DType::kF16, 66}}, in, TestSeed());
    const size_t rows = 5;
    const std::vector<float> x = RandomFloats(rows * in, TestSeed() + 1);
    ThreadPool pool(3);
    std::vector<float> y(rows * w.view.out);
    MatVecEachRow(pool, w.view, x.data(), in, rows, y.data(), w.view.out);
    ExpectProduct(w, 0, w.view.out, x, rows, y, 0);
    std::fill(y.begin(), y.end(), 0.5f);
    MatMul(w.view, x.data(), in, rows, y.data(), w.view.out, true);
    ExpectProduct(w, 0, w.view.out, x, rows, y, 0.5);
    // Rows across all parts.
    const MatrixView some = w.view.Rows(60, 30);
    std::vector<float> y_some(rows * some.out);
    MatMul(some, x.data(), in, rows, y_some.data(), some.out, false);
    ExpectProduct(w, 60, 30, x, rows, y_some, 0);
    MatVecEachRow(pool, some, x.data(), in, rows, y_some.data(), some.out);
    ExpectProduct(w, 60, 30, x, rows, y_some, 0);
  }
}

TEST(MatMulTest, ARowDependsNeitherOnItsBatchNorOnTheThreads) {
  const size_t in = 300, rows = 6;
  const Stacked w({{DType::kBf16, 500}, {DType::kBf16, 131}}, in, TestSeed());
  const std::vector<float> x = RandomFloats(rows * in, TestSeed() + 1);
  ThreadPool one(1), three(3);
  std::vector<float> all(rows * w.view.out), alone(w.view.out);
  MatVecEachRow(three, w.view, x.data(), in, rows, all.data(), w.view.out);
  for (size_t r = 0; r < rows; ++r) {
    MatVecEachRow(one, w.view, x.data() + r * in, in, 1, alone.data(), w.view.out);
    for (size_t o = 0; o < alone.size(); ++o) ASSERT_EQ(alone[o], all[r * alone.size() + o]) << r << " " << o;
  }
}

TEST(Int8MatrixTest, EveryValueIsWithinHalfAStepOfItsGroup) {
  const size_t in = 150, out = 130;
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const Stacked w({{dtype, out}}, in, TestSeed());
    ThreadPool pool(2);
    const Int8Matrix rounded(pool, w.view.parts[0], in);
    std::vector<float> values(out * in);
    const MatrixPart part = rounded.part();
    ASSERT_EQ(part.out, out);
    BestRowKernels().int8.widen({part.data, part.scales, out, in, values.data()});
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t group = i % in / kInt8GroupInputs * kInt8GroupInputs;
      float largest = 0;
      for (size_t j = group; j < std::min(in, group + kInt8GroupInputs); ++j) {
        largest = std::max(largest, std::abs(w.values[i / in * in + j]));
      }
      // Half of largest / 127, and the roundings of scale and product.
      ASSERT_NEAR(values[i], w.values[i], largest * (0.5 / 127 + 1e-6)) << i;
    }
  }
}

TEST(Int8MatrixTest, ZerosTinyValuesAndWhatIsNoNumber) {
  std::vector<float> stored(3 * kInt8GroupInputs, 0.0f);
  stored[kInt8GroupInputs] = 1e-38f;
  stored[2 * kInt8GroupInputs + 5] = INFINITY;
  ThreadPool pool(1);
  const Int8Matrix rounded(pool, {stored.data(), DType::kF32, nullptr, 1}, stored.size());
  std::vector<float> values(stored.size());
  const MatrixPart part = rounded.part();
  BestRowKernels().int8.widen({part.data, part.scales, 1, stored.size(), values.data()});
  for (size_t i = 0; i < 2 * kInt8GroupInputs; ++i) EXPECT_EQ(values[i], 0.0f);
  for (size_t i = 2 * kInt8GroupInputs; i < values.size(); ++i) EXPECT_TRUE(std::isnan(values[i]));
}

}  // namespace
}  // namespace tributary
