// What only some families do around attention and MLP, experts among it, against f64.
#include "gpu_worker/device/cuda/kernels/branch.h"

#include <algorithm>
#include <numeric>

#include "gpu_worker/device/cuda/kernels/moe.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {
namespace {

class BranchTest : public KernelTest {
 protected:
  void CheckBranch(uint32_t rows, uint32_t size, bool with_bias, bool with_norm, float scale) {
    SCOPED_TRACE(testing::Message() << rows << " x " << size);
    const std::vector<float> branch = RandomNormal(random_, size_t{rows} * size, 2.0f);
    const std::vector<float> hidden = RandomNormal(random_, size_t{rows} * size);
    const std::vector<float> bias = RandomNormal(random_, size), weight = RandomNormal(random_, size);
    DeviceArray<float> branch_device(branch), hidden_device(hidden), bias_device(bias), weight_device(weight);
    ExpectCudaOk(AddBranch({.branch = branch_device.get(),
                            .bias = with_bias ? bias_device.get() : nullptr,
                            .weight = with_norm ? weight_device.get() : nullptr,
                            .eps = 1e-5f,
                            .scale = scale,
                            .hidden = hidden_device.get(),
                            .rows = rows,
                            .hidden_size = size},
                           launch_));
    const std::vector<float>& actual = hidden_device.Fetch();
    for (uint32_t r = 0; r < rows; ++r) {
      std::vector<double> x(size);
      double squares = 0;
      for (uint32_t i = 0; i < size; ++i) {
        x[i] = double{branch[size_t{r} * size + i]} + (with_bias ? bias[i] : 0.0f);
        squares += x[i] * x[i];
      }
      const double factor = with_norm ? 1 / std::sqrt(squares / size + 1e-5) : 1;
      for (uint32_t i = 0; i < size; ++i) {
        const double added = scale * x[i] * factor * (with_norm ? weight[i] : 1.0f);
        const double expected = hidden[size_t{r} * size + i] + added;
        ASSERT_NEAR(actual[size_t{r} * size + i], expected, 1e-5 * (1 + std::abs(added))) << r << ", " << i;
      }
    }
  }

  // What is added to router logits and to products, if the layer has it; its activation clamps then.
  struct ExpertBiases {
    std::vector<float> router, gate_up, down;
  };

  // The layer in f64.
  void CheckExperts(uint32_t rows, uint32_t num_experts, uint32_t per_token, bool normalises, DType dtype,
                    bool with_biases = false) {
    SCOPED_TRACE(testing::Message() << rows << " rows, " << per_token << " of " << num_experts << " experts");
    const uint32_t hidden = 40, intermediate = 24;
    std::vector<float> logits = RandomNormal(random_, size_t{rows} * num_experts, 2.0f);
    const TypedArray x(dtype, RandomNormal(random_, size_t{rows} * hidden));
    const TypedArray gate_up(dtype, RandomNormal(random_, size_t{num_experts} * 2 * intermediate * hidden, 0.3f));
    const TypedArray down(dtype, RandomNormal(random_, size_t{num_experts} * hidden * intermediate, 0.3f));
    const ExpertBiases biases{RandomNormal(random_, num_experts),
                              RandomNormal(random_, num_experts * 2 * intermediate, 5.0f),
                              RandomNormal(random_, num_experts * hidden)};
    DeviceArray<float> router_bias(biases.router), gate_up_bias(biases.gate_up), down_bias(biases.down);
    DeviceArray<float> logits_device(logits), weights(size_t{rows} * per_token), out(size_t{rows} * hidden);
    DeviceArray<uint32_t> experts(size_t{rows} * per_token);
    DeviceArray<float> gated(size_t{rows} * per_token * intermediate);
    ExpectCudaOk(ChooseExperts({.logits = logits_device.get(),
                                .bias = with_biases ? router_bias.get() : nullptr,
                                .experts = experts.get(),
                                .weights = weights.get(),
                                .rows = rows,
                                .num_experts = num_experts,
                                .experts_per_token = per_token,
                                .normalises_weights = normalises},
                               launch_));
    ExpectCudaOk(RunExperts({.x = x.get(),
                             .gate_up = gate_up.get(),
                             .down = down.get(),
                             .gate_up_bias = with_biases ? gate_up_bias.get() : nullptr,
                             .down_bias = with_biases ? down_bias.get() : nullptr,
                             .dtype = dtype,
                             .activation = with_biases ? GateActivation::kClampedSwiglu : GateActivation::kSilu,
                             .experts = experts.get(),
                             .weights = weights.get(),
                             .gated = gated.get(),
                             .out = out.get(),
                             .rows = rows,
                             .experts_per_token = per_token,
                             .hidden = hidden,
                             .intermediate = intermediate},
                            launch_));
    const std::vector<uint32_t>& chosen = experts.Fetch();
    const std::vector<float>& actual = out.Fetch();
    for (uint32_t r = 0; r < rows; ++r) {
      float* const row = logits.data() + size_t{r} * num_experts;
      for (uint32_t e = 0; e < num_experts && with_biases; ++e) row[e] += biases.router[e];
      std::vector<uint32_t> order(num_experts);
      std::iota(order.begin(), order.end(), 0u);
      std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return row[a] > row[b]; });
      double sum = 0;
      for (uint32_t i = 0; i < (normalises ? per_token : num_experts); ++i) sum += std::exp(row[order[i]]);
      order.resize(per_token);
      std::sort(order.begin(), order.end());
      const std::vector<uint32_t> mine(chosen.begin() + r * per_token, chosen.begin() + (r + 1) * per_token);
      ASSERT_EQ(mine, order);
      std::vector<double> expected(hidden);
      for (const uint32_t e : order)
        AddExpert(e, std::exp(double{row[e]}) / sum, r, hidden, intermediate, x, gate_up, down,
                  with_biases ? &biases : nullptr, expected);
      for (uint32_t i = 0; i < hidden; ++i)
        ASSERT_NEAR(actual[size_t{r} * hidden + i], expected[i], 1e-4 + 1e-5 * std::abs(expected[i])) << r << ", " << i;
    }
  }

  static void AddExpert(uint32_t e, double weight, uint32_t r, uint32_t hidden, uint32_t intermediate,
                        const TypedArray& x, const TypedArray& gate_up, const TypedArray& down,
                        const ExpertBiases* biases, std::vector<double>& out) {
    std::vector<double> gated(intermediate);
    for (uint32_t i = 0; i < intermediate; ++i) {
      double gate = 0, up = 0;
      for (uint32_t k = 0; k < hidden; ++k) {
        const double value = x.values[size_t{r} * hidden + k];
        gate += gate_up.values[(size_t{e} * 2 * intermediate + i) * hidden + k] * value;
        up += gate_up.values[(size_t{e} * 2 * intermediate + intermediate + i) * hidden + k] * value;
      }
      if (biases == nullptr) {
        gated[i] = gate / (1 + std::exp(-gate)) * up;
        continue;
      }
      gate = std::min(gate + biases->gate_up[size_t{e} * 2 * intermediate + i], 7.0);
      up = std::clamp(up + biases->gate_up[(size_t{e} * 2 + 1) * intermediate + i], -7.0, 7.0);
      gated[i] = gate / (1 + std::exp(-1.702 * gate)) * (up + 1);
    }
    for (uint32_t o = 0; o < hidden; ++o) {
      if (biases != nullptr) out[o] += weight * biases->down[size_t{e} * hidden + o];
      for (uint32_t i = 0; i < intermediate; ++i) {
        out[o] += weight * down.values[(size_t{e} * hidden + o) * intermediate + i] * gated[i];
      }
    }
  }
};

TEST_F(BranchTest, AddsWhatAttentionLeft) {
  CheckBranch(1, 64, false, false, 0.5f);
  CheckBranch(3, 100, true, true, 1.0f);
  CheckBranch(2, 4096, false, true, 0.22f);
  CheckBranch(5, 1023, true, false, 2.0f);
}

TEST_F(BranchTest, NormalisesAPartOfEachRow) {
  const uint32_t rows = 3, stride = 100, begin = 20, size = 48;
  const std::vector<float> input = RandomNormal(random_, size_t{rows} * stride), weight = RandomNormal(random_, size);
  DeviceArray<float> device(input), weight_device(weight);
  ExpectCudaOk(NormaliseSpan({device.get() + begin, stride, size, weight_device.get(), 1e-6f, rows}, launch_));
  const std::vector<float>& actual = device.Fetch();
  for (uint32_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (uint32_t i = 0; i < size; ++i) squares += std::pow(double{input[r * stride + begin + i]}, 2);
    const double factor = 1 / std::sqrt(squares / size + 1e-6);
    for (uint32_t i = 0; i < stride; ++i) {
      const bool inside = i >= begin && i < begin + size;
      const double expected = input[r * stride + i] * (inside ? factor * weight[i - begin] : 1.0);
      ASSERT_NEAR(actual[r * stride + i], expected, 1e-5 * (1 + std::abs(expected))) << r << ", " << i;
    }
  }
}

TEST_F(BranchTest, ScalesAndCapsLogits) {
  DeviceArray<float> logits(std::vector<float>{-60, -1, 0, 2, 90});
  ExpectCudaOk(FinishLogits({.logits = logits.get(), .count = 5, .scale = 0.5f, .cap = 30.0f}, launch_));
  const std::vector<float>& actual = logits.Fetch();
  for (size_t i = 0; i < 5; ++i) {
    const double logit = std::vector<double>{-30, -0.5, 0, 1, 45}[i];
    EXPECT_NEAR(actual[i], 30 * std::tanh(logit / 30), 1e-5);
  }
}

TEST_F(BranchTest, Experts) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    CheckExperts(1, 4, 2, true, dtype);
    CheckExperts(5, 8, 3, false, dtype);
    CheckExperts(3, 100, 9, true, dtype);
    CheckExperts(2, 3, 3, true, dtype);
    CheckExperts(4, 6, 2, true, dtype, /*with_biases=*/true);
  }
}

}  // namespace
}  // namespace tributary::gpu
