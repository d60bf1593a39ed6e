#include "gpu_worker/device/cuda/kernels/prefill_attend.h"

#include <cmath>
#include <random>

#include "attention/reference.h"
#include "base/dtype.h"
#include "tests/testutil/test_seed.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/gpu_test.h"

namespace tributary {
namespace {

struct Case {
  AttentionShape shape;
  DType q_dtype;
  DType kv_dtype;
  DType out_dtype;
  uint64_t first_pos;
  uint32_t num_queries;
  float soft_cap = 0;
  std::vector<float> sink_logits = {};
};

class PrefillAttendTest : public GpuTest {
 protected:
  PrefillAttendTest() : seed_(TestSeed()), random_(seed_) {}

  // `count` normal numbers, rounded to `dtype`.
  std::vector<std::byte> Random(DType dtype, size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(random_);
    std::vector<std::byte> bytes(count * DTypeBytes(dtype));
    ConvertFromF32(dtype, values.data(), count, bytes.data());
    return bytes;
  }

  // Relative error of some queries' outputs, by norm.
  double Error(const Case& c) {
    const size_t q_dim = size_t{c.shape.num_q_heads} * c.shape.head_dim;
    const size_t kv_dim = size_t{c.shape.num_kv_heads} * c.shape.head_dim;
    const size_t num_keys = c.first_pos + c.num_queries;
    const auto q = Random(c.q_dtype, c.num_queries * q_dim);
    const auto k = Random(c.kv_dtype, num_keys * kv_dim);
    const auto v = Random(c.kv_dtype, num_keys * kv_dim);
    const DeviceBuffer device_q = Upload(q), device_k = Upload(k), device_v = Upload(v);
    const DeviceBuffer out = Poisoned(c.num_queries * q_dim * DTypeBytes(c.out_dtype));
    gpu::PrefillAttendArgs args;
    args.q = device_q.data();
    args.q_dtype = c.q_dtype;
    args.k = device_k.data();
    args.v = device_v.data();
    args.kv_dtype = c.kv_dtype;
    args.out = out.data();
    args.out_dtype = c.out_dtype;
    args.first_pos = c.first_pos;
    args.num_queries = c.num_queries;
    args.geometry = {c.shape.num_q_heads, c.shape.num_kv_heads, c.shape.head_dim};
    args.softmax_scale = 1.5f / std::sqrt(static_cast<float>(c.shape.head_dim));
    args.soft_cap = c.soft_cap;
    const std::vector<float> none = {0};
    const DeviceBuffer sinks = Upload(std::as_bytes(std::span(c.sink_logits.empty() ? none : c.sink_logits)));
    args.sink_logits = c.sink_logits.empty() ? nullptr : sinks.as<float>();
    EXPECT_EQ(gpu::PrefillAttend(args, {}), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const std::vector<std::byte> bytes = Download(out);
    std::vector<float> values(c.num_queries * q_dim);
    ConvertToF32(c.out_dtype, bytes.data(), values.size(), values.data());
    for (const float value : values) EXPECT_TRUE(std::isfinite(value));

    std::vector<float> q_values(c.num_queries * q_dim);
    ConvertToF32(c.q_dtype, q.data(), q_values.size(), q_values.data());
    double errors = 0, squares = 0;
    const uint32_t stride = std::max(1u, c.num_queries / 7);
    for (uint32_t i = 0; i < c.num_queries; i += stride) {
      const uint32_t query = i + stride > c.num_queries ? c.num_queries - 1 : i;
      const ReferencePartial expected = ReferenceAttention({.shape = c.shape,
                                                            .softmax_scale = args.softmax_scale,
                                                            .soft_cap = c.soft_cap,
                                                            .sink_logits = c.sink_logits,
                                                            .q = std::span(q_values).subspan(query * q_dim, q_dim),
                                                            .k = k,
                                                            .v = v,
                                                            .k_dtype = c.kv_dtype,
                                                            .v_dtype = c.kv_dtype,
                                                            .visible = TokenRange{0, c.first_pos + query + 1}});
      for (size_t d = 0; d < q_dim; ++d) {
        const double error = values[query * q_dim + d] - expected.out[d];
        errors += error * error;
        squares += expected.out[d] * expected.out[d];
      }
    }
    return std::sqrt(errors / squares);
  }

  const uint64_t seed_;
  std::mt19937_64 random_;
};

TEST_F(PrefillAttendTest, TensorCoresAgreeWithTheReference) {
  SCOPED_TRACE(SeedTrace(seed_));
  const std::pair<uint64_t, uint32_t> ranges[] = {{0, 1},    {0, 64}, {0, 200},   {1, 1},     {63, 65},
                                                  {64, 128}, {77, 1}, {130, 127}, {500, 129}, {1000, 512}};
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    for (const uint32_t head_dim : {64u, 128u}) {
      for (const auto& [first_pos, num_queries] : ranges) {
        if (SmallCasesOnly() && first_pos + num_queries > 150) continue;
        const Case c{{4, 2, head_dim}, dtype, dtype, dtype, first_pos, num_queries};
        EXPECT_LT(Error(c), dtype == DType::kBf16 ? 8e-3 : 1.5e-3)
            << DTypeName(dtype) << " head_dim " << head_dim << " from " << first_pos << ", " << num_queries
            << " queries";
      }
    }
  }
  if (SmallCasesOnly()) return;
  EXPECT_LT(Error({{8, 1, 128}, DType::kBf16, DType::kBf16, DType::kF32, 90, 100}), 8e-3);
}

TEST_F(PrefillAttendTest, ThePlainKernelAgreesWithTheReference) {
  SCOPED_TRACE(SeedTrace(seed_));
  for (const uint32_t head_dim : {8u, 16u, 80u, 128u, 256u}) {
    if (SmallCasesOnly() && head_dim > 80) continue;
    for (const DType kv_dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
      for (const auto& [first_pos, num_queries] : {std::pair<uint64_t, uint32_t>{0, 1}, {0, 33}, {31, 32}, {90, 70}}) {
        const Case c{{6, 2, head_dim}, DType::kF32, kv_dtype, DType::kF32, first_pos, num_queries};
        EXPECT_LT(Error(c), 1e-5) << DTypeName(kv_dtype) << " head_dim " << head_dim << " from " << first_pos << ", "
                                  << num_queries << " queries";
      }
    }
  }
}

TEST_F(PrefillAttendTest, SinksAndCapsAgreeWithTheReference) {
  SCOPED_TRACE(SeedTrace(seed_));
  const std::vector<float> sinks = {-20, 0, 2, 5};
  for (const auto& [first_pos, num_queries] : {std::pair<uint64_t, uint32_t>{0, 1}, {0, 33}, {90, 70}}) {
    SCOPED_TRACE(testing::Message() << "from " << first_pos << ", " << num_queries << " queries");
    const Case plain{{4, 2, 80}, DType::kF32, DType::kBf16, DType::kF32, first_pos, num_queries};
    const Case tensor{{4, 2, 64}, DType::kBf16, DType::kBf16, DType::kBf16, first_pos, num_queries};
    for (Case c : {plain, tensor}) {
      c.sink_logits = sinks;
      EXPECT_LT(Error(c), c.q_dtype == DType::kF32 ? 1e-5 : 8e-3);
      c.soft_cap = 1.5f;  // the plain kernel
      EXPECT_LT(Error(c), c.q_dtype == DType::kF32 ? 1e-5 : 8e-3);
      c.sink_logits.clear();
      EXPECT_LT(Error(c), c.q_dtype == DType::kF32 ? 1e-5 : 8e-3);
    }
  }
}

TEST_F(PrefillAttendTest, RandomCases) {
  SCOPED_TRACE(SeedTrace(seed_));
  for (int i = 0; i < (SmallCasesOnly() ? 0 : 12); ++i) {
    const uint32_t kv_heads = RandomInt(random_, 1u, 4u);
    const AttentionShape shape{kv_heads * RandomInt(random_, 1u, 5u), kv_heads,
                               RandomInt(random_, 0, 1) == 0 ? 64u : 128u};
    const Case c{
        shape, DType::kBf16, DType::kBf16, DType::kBf16, RandomInt(random_, 0u, 600u), RandomInt(random_, 1u, 400u)};
    EXPECT_LT(Error(c), 8e-3) << shape.num_q_heads << " heads, " << kv_heads << " KV heads, dim " << shape.head_dim
                              << ", from " << c.first_pos << ", " << c.num_queries;
  }
}

TEST_F(PrefillAttendTest, OneDominantKeyIsExact) {
  // Query i finds key i: its value comes out as it is.
  const uint32_t dim = 64, tokens = 100;
  std::vector<float> keys(tokens * dim), values(tokens * dim);
  for (float& key : keys) key = RandomInt(random_, 0, 1) == 0 ? -8.0f : 8.0f;
  for (float& value : values) value = static_cast<float>(RandomInt(random_, -100, 100));
  std::vector<std::byte> k(keys.size() * 2), v(keys.size() * 2);
  ConvertFromF32(DType::kBf16, keys.data(), keys.size(), k.data());
  ConvertFromF32(DType::kBf16, values.data(), values.size(), v.data());
  const DeviceBuffer device_k = Upload(k), device_v = Upload(v);
  const DeviceBuffer out = Poisoned(values.size() * sizeof(float));
  gpu::PrefillAttendArgs args;
  args.q = args.k = device_k.data();
  args.v = device_v.data();
  args.out = out.data();
  args.q_dtype = args.kv_dtype = DType::kBf16;
  args.out_dtype = DType::kF32;
  args.num_queries = tokens;
  args.geometry = {1, 1, dim};
  args.softmax_scale = 1.0f;
  ASSERT_EQ(gpu::PrefillAttend(args, {}), cudaSuccess);
  const std::vector<std::byte> bytes = Download(out);
  EXPECT_EQ(std::memcmp(bytes.data(), values.data(), bytes.size()), 0);
}

TEST_F(PrefillAttendTest, SizesThatItDoesNotServeAreRefused) {
  gpu::PrefillAttendArgs args;
  args.q_dtype = args.kv_dtype = args.out_dtype = DType::kF32;
  args.geometry = {4, 2, 64};
  EXPECT_EQ(gpu::PrefillAttend(args, {}), cudaErrorInvalidValue) << "no queries";
  args.num_queries = 1;
  args.geometry.num_kv_heads = 3;
  EXPECT_EQ(gpu::PrefillAttend(args, {}), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace tributary
