// MatVec() against f64, for every dtype, epilogue and batch, and for sizes that fill no tile.
#include "gpu_worker/device/cuda/kernels/matvec.h"

#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {
namespace {

class MatVecTest : public KernelTest {
 protected:
  void Check(DType dtype, uint32_t rows, uint32_t in, uint32_t out, MatVecEpilogue epilogue, bool with_bias) {
    SCOPED_TRACE(testing::Message() << DTypeName(dtype) << " rows " << rows << " in " << in << " out " << out
                                    << " epilogue " << static_cast<int>(epilogue) << " bias " << with_bias);
    const bool silu = epilogue == MatVecEpilogue::kSiluMul;
    const bool adds = epilogue == MatVecEpilogue::kAddResidual;
    const uint32_t outputs = silu ? out / 2 : out;
    const TypedArray weights(dtype, RandomNormal(random_, size_t{out} * in));
    const TypedArray x(dtype, RandomNormal(random_, size_t{rows} * in));
    const std::vector<float> bias = RandomNormal(random_, out);
    DeviceArray<float> bias_device(bias);
    const DType y_dtype = adds ? DType::kF32 : dtype;
    const std::vector<float> before = RandomNormal(random_, size_t{rows} * outputs);
    TypedArray y(y_dtype, size_t{rows} * outputs);
    if (adds) y = TypedArray(y_dtype, before);
    ExpectCudaOk(MatVec({.weights = weights.get(),
                         .weight_dtype = dtype,
                         .x = x.get(),
                         .bias = with_bias ? bias_device.get() : nullptr,
                         .y = y.get(),
                         .y_dtype = y_dtype,
                         .rows = rows,
                         .in = in,
                         .out = out,
                         .epilogue = epilogue},
                        launch_));
    const std::vector<float>& actual = y.Fetch();
    const auto dot = [&](uint32_t r, uint32_t o, double& size) {
      double sum = 0;
      for (uint32_t k = 0; k < in; ++k) {
        const double term = double{weights.values[size_t{o} * in + k]} * x.values[size_t{r} * in + k];
        sum += term;
        size += std::abs(term);
      }
      return sum;
    };
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t o = 0; o < outputs; ++o) {
        double size = 0, up_size = 0;
        double expected = dot(r, o, size);
        double tolerance = 1e-6 * size;
        if (silu) {
          const double up = dot(r, o + outputs, up_size);
          const double activated = expected / (1 + std::exp(-expected));
          tolerance = 1.1 * tolerance * std::abs(up) + 1e-6 * up_size * std::abs(activated);
          expected = activated * up;
        }
        if (with_bias) expected += bias[o];
        if (adds) expected += before[size_t{r} * outputs + o];
        tolerance += RoundingOf(y_dtype) * std::abs(expected) + 1e-5;
        ASSERT_NEAR(actual[size_t{r} * outputs + o], expected, tolerance) << "row " << r << ", output " << o;
      }
    }
  }
};

TEST_F(MatVecTest, EveryBatchAndEpilogue) {
  for (const DType dtype : {DType::kBf16, DType::kF16, DType::kF32}) {
    for (uint32_t rows = 1; rows <= kMaxMatVecRows; ++rows) {
      if (TestsAreSmall() && rows % 5 != 1) continue;
      Check(dtype, rows, 256, 48, MatVecEpilogue::kStore, rows % 2 == 0);
      Check(dtype, rows, 136, 40, MatVecEpilogue::kAddResidual, rows % 2 == 1);
      Check(dtype, rows, 72, 60, MatVecEpilogue::kSiluMul, false);
    }
  }
}

TEST_F(MatVecTest, SizesThatFillNoTile) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    for (const uint32_t in : {8u, 64u, 1000u, 1032u, 2056u}) {
      for (const uint32_t out : {2u, 14u, 16u, 18u, 62u}) {
        Check(dtype, 3, in, out, MatVecEpilogue::kStore, true);
        Check(dtype, 1, in, out, MatVecEpilogue::kSiluMul, false);
      }
    }
  }
}

// More tiles than blocks fit on a GPU: blocks take several in turn.
TEST_F(MatVecTest, ManyTiles) {
  const uint32_t out = TestsAreSmall() ? 600 : 9000;
  Check(DType::kBf16, 8, TestsAreSmall() ? 128 : 1152, out, MatVecEpilogue::kStore, false);
  Check(DType::kBf16, 11, 264, out, MatVecEpilogue::kSiluMul, false);
}

TEST_F(MatVecTest, RefusesWhatItDoesNotServe) {
  MatVecArgs args{.weight_dtype = DType::kBf16, .y_dtype = DType::kF32, .rows = 1, .in = 12, .out = 8};
  EXPECT_EQ(MatVec(args, launch_), cudaErrorInvalidValue);
  args.in = 16;
  args.rows = kMaxMatVecRows + 1;
  EXPECT_EQ(MatVec(args, launch_), cudaErrorInvalidValue);
  args.rows = 1;
  args.y_dtype = DType::kBf16;
  args.epilogue = MatVecEpilogue::kAddResidual;
  EXPECT_EQ(MatVec(args, launch_), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace tributary::gpu
