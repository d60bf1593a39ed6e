// FinishQkv() and FinishQkvPrefill() against f64.
#include "gpu_worker/device/cuda/kernels/qkv.h"

#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {
namespace {

struct QkvCase {
  KvGeometry geometry;
  DType dtype;  // of the projections
  DType kv_dtype;
  bool bias, norms;
  uint32_t turned = 0;  // pairs of a head that turn; 0: all
  bool neighbours = false;
};

// Inputs on both sides.
struct QkvData {
  QkvData(const QkvCase& c, uint32_t num_rows, std::mt19937_64& random)
      : c(c),
        width((c.geometry.num_q_heads + 2 * c.geometry.num_kv_heads) * c.geometry.head_dim),
        half(c.turned != 0 ? c.turned : c.geometry.head_dim / 2),
        qkv(c.dtype, RandomNormal(random, size_t{num_rows} * width)),
        bias(RandomNormal(random, width)),
        q_norm(RandomNormal(random, c.geometry.head_dim)),
        k_norm(RandomNormal(random, c.geometry.head_dim)) {
    for (const float angle : RandomNormal(random, size_t{num_rows} * half, 3.0f)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    input = {.qkv = qkv.get(),
             .dtype = c.dtype,
             .bias = c.bias ? bias_device.emplace_back(bias).get() : nullptr,
             .q_norm = c.norms ? norm_device.emplace_back(q_norm).get() : nullptr,
             .k_norm = nullptr,
             .eps = 1e-6f,
             .cos = angle_device.emplace_back(cos).get(),
             .pairs = {half, c.neighbours},
             .num_rows = num_rows,
             .geometry = c.geometry};
    input.sin = angle_device.emplace_back(sin).get();
    if (c.norms) input.k_norm = norm_device.emplace_back(k_norm).get();
  }

  // Element i of a head, counted over q, k and v.
  std::vector<double> Expected(uint32_t row, uint32_t head) const {
    const uint32_t head_dim = c.geometry.head_dim;
    const uint32_t num_rotated = c.geometry.num_q_heads + c.geometry.num_kv_heads;
    std::vector<double> x(head_dim);
    double squares = 0;
    for (uint32_t i = 0; i < head_dim; ++i) {
      x[i] = double{qkv.values[size_t{row} * width + head * head_dim + i]} + (c.bias ? bias[head * head_dim + i] : 0.0);
      squares += x[i] * x[i];
    }
    if (head >= num_rotated) return x;
    const std::vector<float>& weight = head < c.geometry.num_q_heads ? q_norm : k_norm;
    const double factor = 1.0 / std::sqrt(squares / head_dim + 1e-6);
    for (uint32_t i = 0; i < head_dim && c.norms; ++i) x[i] *= factor * weight[i];
    for (uint32_t i = 0; i < half; ++i) {
      const uint32_t low = c.neighbours ? 2 * i : i, high = c.neighbours ? 2 * i + 1 : i + half;
      const double a = x[low], b = x[high];
      const double cosine = cos[size_t{row} * half + i], sine = sin[size_t{row} * half + i];
      x[low] = a * cosine - b * sine;
      x[high] = b * cosine + a * sine;
    }
    return x;
  }

  const QkvCase c;
  uint32_t width, half;  // pairs that turn
  TypedArray qkv;
  std::vector<float> bias, q_norm, k_norm, cos, sin;
  std::vector<DeviceArray<float>> bias_device, norm_device, angle_device;
  QkvInput input;
};

class QkvTest : public KernelTest {
 protected:
  static void ExpectHead(const std::vector<double>& expected, const float* actual, double rounding) {
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], (rounding + 1e-6) * std::abs(expected[i]) + 1e-5) << "element " << i;
    }
  }

  // Whether rounding to `dtype` again would change nothing.
  static bool IsRounded(DType dtype, std::span<const float> values) {
    std::vector<std::byte> stored(values.size() * DTypeBytes(dtype));
    std::vector<float> again(values.size());
    ConvertFromF32(dtype, values.data(), values.size(), stored.data());
    ConvertToF32(dtype, stored.data(), values.size(), again.data());
    return std::equal(values.begin(), values.end(), again.begin());
  }

  void CheckDecode(const QkvCase& c, bool round_q) {
    const uint32_t num_rows = 5, layers = 3, layer = 1, capacity = 9, padding_row = 2;
    const KvGeometry& g = c.geometry;
    const QkvData data(c, num_rows, random_);
    const size_t head_elements = size_t{capacity} * g.head_dim;
    std::vector<TypedArray> regions;
    std::vector<DecodeRowDesc> rows(num_rows);
    for (uint32_t r = 0; r < num_rows; ++r) {
      regions.emplace_back(c.kv_dtype, std::vector<float>(layers * 2 * g.num_kv_heads * head_elements, 7.0f));
      rows[r].region = r == padding_row ? nullptr : static_cast<std::byte*>(regions[r].get());
      rows[r].capacity_tokens = capacity;
      rows[r].append_slot = RandomInt(random_, 0u, capacity - 1);
      rows[r].kv_dtype = c.kv_dtype;
    }
    DeviceArray<DecodeRowDesc> rows_device(rows);
    DeviceArray<float> q(size_t{num_rows} * g.num_q_heads * g.head_dim);
    auto host = PinnedBuffer::Make(q.size() * sizeof(float), "a test");
    ASSERT_TRUE(host.ok());
    ExpectCudaOk(FinishQkv({.input = data.input,
                            .rows = rows_device.get(),
                            .layer = layer,
                            .round_q = round_q,
                            .q = q.get(),
                            .host_q = host->as<float>()},
                           launch_));
    const std::vector<float>& q_actual = q.Fetch();
    EXPECT_EQ(std::memcmp(q_actual.data(), host->data(), host->bytes()), 0);
    EXPECT_EQ(IsRounded(c.kv_dtype, q_actual), round_q || c.kv_dtype == DType::kF32);
    for (uint32_t r = 0; r < num_rows; ++r) {
      SCOPED_TRACE(testing::Message() << "row " << r);
      for (uint32_t head = 0; head < g.num_q_heads; ++head) {
        ExpectHead(data.Expected(r, head), q_actual.data() + (size_t{r} * g.num_q_heads + head) * g.head_dim,
                   round_q ? RoundingOf(c.kv_dtype) : 0);
      }
      // What must have been written where; all else stays 7.
      std::vector<float> expected(regions[r].values.size(), 7.0f);
      for (uint32_t kv = 0; kv < 2 * g.num_kv_heads && r != padding_row; ++kv) {
        const size_t head = (layer * 2 + kv / g.num_kv_heads) * g.num_kv_heads + kv % g.num_kv_heads;
        const std::vector<double> x = data.Expected(r, g.num_q_heads + kv);
        for (uint32_t i = 0; i < g.head_dim; ++i) {
          expected[head * head_elements + rows[r].append_slot * g.head_dim + i] = static_cast<float>(x[i]);
        }
      }
      const std::vector<float>& actual = regions[r].Fetch();
      for (size_t i = 0; i < actual.size(); ++i) {
        ASSERT_NEAR(actual[i], expected[i], (RoundingOf(c.kv_dtype) + 1e-6) * std::abs(expected[i]) + 1e-5) << i;
      }
    }
  }

  void CheckPrefill(const QkvCase& c) {
    const uint32_t num_rows = 7;
    const KvGeometry& g = c.geometry;
    const QkvData data(c, num_rows, random_);
    TypedArray q(c.kv_dtype, size_t{num_rows} * g.num_q_heads * g.head_dim);
    TypedArray k(c.kv_dtype, size_t{num_rows} * g.num_kv_heads * g.head_dim);
    TypedArray v(c.kv_dtype, size_t{num_rows} * g.num_kv_heads * g.head_dim);
    FinishQkvPrefillArgs args{
        .input = data.input, .q_dtype = c.kv_dtype, .kv_dtype = c.kv_dtype, .q = q.get(), .k = k.get(), .v = v.get()};
    ExpectCudaOk(FinishQkvPrefill(args, launch_));
    q.Fetch(), k.Fetch(), v.Fetch();
    const double rounding = RoundingOf(c.kv_dtype);
    for (uint32_t r = 0; r < num_rows; ++r) {
      for (uint32_t head = 0; head < g.num_q_heads; ++head) {
        ExpectHead(data.Expected(r, head), q.values.data() + (size_t{r} * g.num_q_heads + head) * g.head_dim, rounding);
      }
      for (uint32_t head = 0; head < g.num_kv_heads; ++head) {
        const size_t begin = (size_t{r} * g.num_kv_heads + head) * g.head_dim;
        ExpectHead(data.Expected(r, g.num_q_heads + head), k.values.data() + begin, rounding);
        ExpectHead(data.Expected(r, g.num_q_heads + g.num_kv_heads + head), v.values.data() + begin, rounding);
      }
    }
  }
};

TEST_F(QkvTest, DecodeAndPrefill) {
  std::vector<QkvCase> cases = {
      {{8, 2, 8}, DType::kF32, DType::kF32, false, false},   {{4, 4, 16}, DType::kF32, DType::kBf16, true, false},
      {{6, 2, 32}, DType::kBf16, DType::kF16, false, true},  {{3, 1, 80}, DType::kF32, DType::kBf16, true, true},
      {{8, 2, 128}, DType::kF32, DType::kBf16, false, true}, {{2, 1, 256}, DType::kF32, DType::kF32, true, true}};
  // A part of each head turns, or neighbours do.
  for (const QkvCase& c : std::vector<QkvCase>{{{4, 2, 16}, DType::kF32, DType::kF32, true, true, 6},
                                               {{4, 2, 128}, DType::kF32, DType::kBf16, false, true, 48},
                                               {{4, 2, 128}, DType::kF32, DType::kBf16, true, false, 32, true},
                                               {{2, 1, 256}, DType::kF32, DType::kF32, false, true, 0, true},
                                               {{2, 1, 80}, DType::kBf16, DType::kF32, true, true, 20, true}}) {
    cases.push_back(c);
  }
  for (const QkvCase& c : cases) {
    SCOPED_TRACE(testing::Message() << "head_dim " << c.geometry.head_dim << " kv " << DTypeName(c.kv_dtype)
                                    << " turned " << c.turned);
    CheckDecode(c, /*round_q=*/false);
    CheckDecode(c, /*round_q=*/true);
    CheckPrefill(c);
  }
}

}  // namespace
}  // namespace tributary::gpu
