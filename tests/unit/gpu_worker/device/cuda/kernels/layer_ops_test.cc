// Norms, activation and embeddings against f64.
#include "gpu_worker/device/cuda/kernels/activation.h"
#include "gpu_worker/device/cuda/kernels/embed.h"
#include "gpu_worker/device/cuda/kernels/norm.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {
namespace {

class LayerOpsTest : public KernelTest {
 protected:
  void CheckNorm(uint32_t rows, uint32_t size, bool with_delta, bool with_bias, DType dtype) {
    SCOPED_TRACE(testing::Message() << rows << " x " << size << " " << DTypeName(dtype));
    const std::vector<float> hidden = RandomNormal(random_, size_t{rows} * size, 3.0f);
    const std::vector<float> weight = RandomNormal(random_, size), bias = RandomNormal(random_, size);
    TypedArray delta(dtype, RandomNormal(random_, size_t{rows} * size));
    DeviceArray<float> hidden_device(hidden), weight_device(weight), bias_device(bias);
    TypedArray normed(dtype, size_t{rows} * size);
    ExpectCudaOk(RmsNorm({.hidden = hidden_device.get(),
                          .delta = with_delta ? delta.get() : nullptr,
                          .delta_dtype = dtype,
                          .delta_bias = with_bias ? bias_device.get() : nullptr,
                          .weight = weight_device.get(),
                          .eps = 1e-5f,
                          .normed = normed.get(),
                          .normed_dtype = dtype,
                          .rows = rows,
                          .hidden_size = size},
                         launch_));
    const std::vector<float>& actual = normed.Fetch();
    const std::vector<float>& after = hidden_device.Fetch();
    for (uint32_t r = 0; r < rows; ++r) {
      std::vector<double> x(size);
      double squares = 0;
      for (uint32_t i = 0; i < size; ++i) {
        const size_t idx = size_t{r} * size + i;
        x[i] = double{hidden[idx]} + (with_delta ? delta.values[idx] : 0.0) + (with_bias ? bias[i] : 0.0);
        squares += x[i] * x[i];
        ASSERT_NEAR(after[idx], x[i], 1e-6 * (1 + std::abs(x[i]))) << idx;
      }
      const double factor = 1.0 / std::sqrt(squares / size + 1e-5);
      for (uint32_t i = 0; i < size; ++i) {
        const double expected = x[i] * factor * weight[i];
        const double tolerance = (RoundingOf(dtype) + 2e-6) * std::abs(expected) + 1e-6;
        ASSERT_NEAR(actual[size_t{r} * size + i], expected, tolerance) << "row " << r << ", " << i;
      }
    }
  }
};

TEST_F(LayerOpsTest, RmsNorm) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    CheckNorm(1, 64, false, false, dtype);
    CheckNorm(3, 100, true, false, dtype);
    CheckNorm(2, 4096, true, true, dtype);
    CheckNorm(5, 1023, false, true, dtype);
  }
}

TEST_F(LayerOpsTest, RmsNormOnlyAdds) {
  DeviceArray<float> hidden(std::vector<float>{1, 2, 3}), bias(std::vector<float>{10, 20, 30});
  ExpectCudaOk(RmsNorm({.hidden = hidden.get(), .delta_bias = bias.get(), .rows = 1, .hidden_size = 3}, launch_));
  EXPECT_EQ(hidden.Fetch(), (std::vector<float>{11, 22, 33}));
}

TEST_F(LayerOpsTest, SiluMul) {
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    const uint32_t rows = 3, size = 300;
    TypedArray gate_up(dtype, RandomNormal(random_, size_t{rows} * 2 * size, 4.0f));
    TypedArray out(dtype, size_t{rows} * size);
    ExpectCudaOk(GateMul({.gate_up = gate_up.get(),
                          .out = out.get(),
                          .dtype = dtype,
                          .out_dtype = dtype,
                          .rows = rows,
                          .intermediate = size},
                         launch_));
    const std::vector<float>& actual = out.Fetch();
    for (uint32_t r = 0; r < rows; ++r) {
      for (uint32_t i = 0; i < size; ++i) {
        const double gate = gate_up.values[size_t{r} * 2 * size + i];
        const double expected = gate / (1 + std::exp(-gate)) * gate_up.values[size_t{r} * 2 * size + size + i];
        ASSERT_NEAR(actual[size_t{r} * size + i], expected, (RoundingOf(dtype) + 1e-6) * std::abs(expected) + 1e-7);
      }
    }
  }
}

TEST_F(LayerOpsTest, EmbeddingsAndAngles) {
  const uint32_t vocab = 50, size = 70, half = 20, num_rows = 5;
  const TypedArray table(DType::kBf16, RandomNormal(random_, size_t{vocab} * size));
  std::vector<float> frequencies(half);
  for (uint32_t i = 0; i < half; ++i)
    frequencies[i] = static_cast<float>(std::pow(5e5, -static_cast<double>(i) / half));
  DeviceArray<float> frequencies_device(frequencies);
  std::vector<DecodeRowDesc> rows(num_rows);
  for (DecodeRowDesc& row : rows) {
    row.token = RandomInt(random_, 0u, vocab - 1);
    row.pos = RandomInt(random_, uint64_t{0}, uint64_t{1} << 21);
  }
  DeviceArray<DecodeRowDesc> rows_device(rows);
  DeviceArray<float> hidden(size_t{num_rows} * size), cos(num_rows * half), sin(num_rows * half);
  ExpectCudaOk(BeginRows({.rows = rows_device.get(),
                          .num_rows = num_rows,
                          .table = table.get(),
                          .table_dtype = DType::kBf16,
                          .hidden = hidden.get(),
                          .hidden_size = size,
                          .rope = {.bases = {{.inverse_frequencies = frequencies_device.get()}},
                                   .num_bases = 1,
                                   .cos = cos.get(),
                                   .sin = sin.get(),
                                   .half_dim = half}},
                         launch_));
  for (uint32_t r = 0; r < num_rows; ++r) {
    for (uint32_t i = 0; i < size; ++i) {
      ASSERT_EQ(hidden.Fetch()[r * size + i], table.values[size_t{rows[r].token} * size + i]);
    }
    for (uint32_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(rows[r].pos) * frequencies[i];
      ASSERT_NEAR(cos.Fetch()[r * half + i], std::cos(double{angle}), 1e-7);
      ASSERT_NEAR(sin.Fetch()[r * half + i], std::sin(double{angle}), 1e-7);
    }
  }
}

TEST_F(LayerOpsTest, PromptTokens) {
  const uint32_t vocab = 9, size = 33, half = 4, num_tokens = 6, first_pos = 100;
  const TypedArray table(DType::kF32, RandomNormal(random_, size_t{vocab} * size));
  const std::vector<float> frequencies = {1.0f, 0.1f, 0.01f, 0.001f};
  const std::vector<uint32_t> tokens = {3, 1, 4, 1, 5, 8};
  DeviceArray<float> frequencies_device(frequencies);
  DeviceArray<uint32_t> tokens_device(tokens);
  DeviceArray<float> hidden(num_tokens * size), cos(num_tokens * half), sin(num_tokens * half);
  ExpectCudaOk(BeginTokens({.tokens = tokens_device.get(),
                            .num_tokens = num_tokens,
                            .first_pos = first_pos,
                            .table = table.get(),
                            .table_dtype = DType::kF32,
                            .hidden = hidden.get(),
                            .hidden_size = size,
                            .rope = {.bases = {{.inverse_frequencies = frequencies_device.get()}},
                                     .num_bases = 1,
                                     .cos = cos.get(),
                                     .sin = sin.get(),
                                     .half_dim = half}},
                           launch_));
  for (uint32_t t = 0; t < num_tokens; ++t) {
    EXPECT_EQ(hidden.Fetch()[t * size + 7], table.values[tokens[t] * size + 7]);
    const float angle = static_cast<float>(first_pos + t) * frequencies[2];
    EXPECT_NEAR(cos.Fetch()[t * half + 2], std::cos(double{angle}), 1e-7);
    EXPECT_NEAR(sin.Fetch()[t * half + 2], std::sin(double{angle}), 1e-7);
  }
}

}  // namespace
}  // namespace tributary::gpu
