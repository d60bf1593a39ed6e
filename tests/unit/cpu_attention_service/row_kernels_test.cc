// Every kernel that this machine supports, against the f64 truth. Bounds: docs/numerics.md.
#include "cpu_attention_service/kernels/kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "attention/reference.h"
#include "tests/unit/cpu_attention_service/random_inputs.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using testing::RandomFloats;
using testing::TestSeed;

constexpr double kOutBound = 1e-5;  // relative to max |out|
constexpr double kLseBound = 2e-6;  // relative to max(1, |lse_ln|)

struct Case {
  uint32_t num_tokens;
  uint32_t head_dim;
  uint32_t group_size;
  DType k_dtype = DType::kF32;
  DType v_dtype = DType::kF32;
  float q_sigma = 1.0f;
};

// Memory of exactly the rows' size, so that AddressSanitizer sees a read past the end.
std::vector<std::byte> Store(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> stored(values.size() * DTypeBytes(dtype));
  ConvertFromF32(dtype, values.data(), values.size(), stored.data());
  return stored;
}

struct Output {
  std::vector<float> out;
  std::vector<float> lse_ln;
};

Output Attend(const CpuKernel& kernel, const Case& c, const std::vector<float>& q,
              const std::vector<std::byte>& k, const std::vector<std::byte>& v) {
  Output output{std::vector<float>(size_t{c.group_size} * c.head_dim, 77.0f),
                std::vector<float>(c.group_size, 77.0f)};
  RowAttentionArgs args;
  args.q = q.data();
  args.k = k.data();
  args.v = v.data();
  args.k_storage = KvStorageOf(c.k_dtype);
  args.v_storage = KvStorageOf(c.v_dtype);
  args.num_tokens = c.num_tokens;
  args.head_dim = c.head_dim;
  args.group_size = c.group_size;
  args.softmax_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  args.out = output.out.data();
  args.lse_ln = output.lse_ln.data();
  kernel.row_fn(args);
  return output;
}

ReferencePartial Reference(const Case& c, const std::vector<float>& q,
                           const std::vector<std::byte>& k, const std::vector<std::byte>& v) {
  ReferenceInput input;
  input.shape = {c.group_size, 1, c.head_dim};
  input.softmax_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  input.q = q;
  input.k = k;
  input.v = v;
  input.k_dtype = c.k_dtype;
  input.v_dtype = c.v_dtype;
  return ReferenceAttention(input);
}

void CheckAgainstReference(const CpuKernel& kernel, const Case& c, std::mt19937_64& random) {
  SCOPED_TRACE(::testing::Message() << kernel.name << " tokens " << c.num_tokens << " head_dim "
                                    << c.head_dim << " group " << c.group_size << " k "
                                    << DTypeName(c.k_dtype) << " v " << DTypeName(c.v_dtype));
  const size_t row_elements = size_t{c.num_tokens} * c.head_dim;
  const std::vector<float> q = RandomFloats(size_t{c.group_size} * c.head_dim, random, c.q_sigma);
  const auto k = Store(c.k_dtype, RandomFloats(row_elements, random));
  const auto v = Store(c.v_dtype, RandomFloats(row_elements, random));
  const Output output = Attend(kernel, c, q, k, v);
  const ReferencePartial expected = Reference(c, q, k, v);
  for (uint32_t h = 0; h < c.group_size; ++h) {
    if (c.num_tokens == 0) {
      ASSERT_EQ(output.lse_ln[h], -INFINITY);
    } else {
      ASSERT_NEAR(output.lse_ln[h], expected.lse_ln[h],
                  kLseBound * std::max(1.0, std::abs(expected.lse_ln[h])));
    }
    const size_t row = size_t{h} * c.head_dim;
    double largest = 0;
    for (uint32_t d = 0; d < c.head_dim; ++d)
      largest = std::max(largest, std::abs(expected.out[row + d]));
    for (uint32_t d = 0; d < c.head_dim; ++d) {
      ASSERT_NEAR(output.out[row + d], expected.out[row + d], kOutBound * largest)
          << "head " << h << " dim " << d;
    }
  }
}

class KernelTest : public ::testing::TestWithParam<const CpuKernel*> {
 protected:
  void SetUp() override {
    if (!cpu_kernels::IsSupported(*GetParam()))
      GTEST_SKIP() << GetParam()->name << ": not on this CPU";
  }
  const CpuKernel& kernel() const { return *GetParam(); }
  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
};

TEST_P(KernelTest, RaggedSizes) {
  for (uint32_t tokens : {0u, 1u, 2u, 7u, 15u, 16u, 17u, 63u, 64u, 65u, 511u, 512u, 513u, 1025u}) {
    CheckAgainstReference(kernel(), {tokens, 64, 4}, random_);
    CheckAgainstReference(kernel(), {tokens, 72, 3, DType::kBf16, DType::kF16}, random_);
  }
}

TEST_P(KernelTest, HeadDims) {
  for (uint32_t head_dim : {8u, 24u, 64u, 80u, 96u, 112u, 120u, 128u, 192u, 256u}) {
    for (uint32_t tokens : {17u, 130u})
      CheckAgainstReference(kernel(), {tokens, head_dim, 4}, random_);
    CheckAgainstReference(kernel(), {130, head_dim, 2, DType::kBf16, DType::kBf16}, random_);
  }
}

TEST_P(KernelTest, GroupSizes) {
  for (uint32_t group_size : {1u, 2u, 3u, 4u, 5u, 8u, 16u, 64u}) {
    CheckAgainstReference(kernel(), {100, 64, group_size, DType::kBf16, DType::kBf16}, random_);
  }
}

TEST_P(KernelTest, StoragePairs) {
  for (DType k_dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (DType v_dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
      CheckAgainstReference(kernel(), {200, 128, 4, k_dtype, v_dtype}, random_);
    }
  }
}

TEST_P(KernelTest,
       SharpSoftmax) {  // scores of some +-30: the maximum moves and most weights vanish
  CheckAgainstReference(kernel(), {513, 64, 4, DType::kF32, DType::kF32, 10.0f}, random_);
}

TEST_P(KernelTest, EveryF16ValueIsWidenedExactly) {
  const Case c{1, 64, 1, DType::kF32, DType::kF16};
  const std::vector<float> q(64, 0.0f);
  const std::vector<std::byte> k = Store(DType::kF32, q);
  for (uint32_t first = 0; first < 0x10000; first += 64) {
    std::vector<std::byte> v(64 * 2);
    for (uint32_t i = 0; i < 64; ++i) {
      const f16_t half{static_cast<uint16_t>(first + i)};
      std::memcpy(v.data() + i * 2, &half, 2);
    }
    const Output output = Attend(kernel(), c, q, k, v);
    for (uint32_t i = 0; i < 64; ++i) {
      const float expected = ToFloat(f16_t{static_cast<uint16_t>(first + i)});
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(output.out[i])) << first + i;
      } else {
        ASSERT_EQ(output.out[i], expected) << first + i;
      }
    }
  }
}

TEST_P(KernelTest, NanInKReachesTheResult) {
  const Case c{100, 64, 2};
  std::vector<float> k = RandomFloats(100 * 64, random_);
  k[99 * 64 + 5] = std::nanf("");
  const Output output = Attend(kernel(), c, RandomFloats(2 * 64, random_), Store(c.k_dtype, k),
                               Store(c.v_dtype, RandomFloats(100 * 64, random_)));
  for (float value : output.out) EXPECT_TRUE(std::isnan(value));
  for (float value : output.lse_ln) EXPECT_TRUE(std::isnan(value));
}

TEST_P(KernelTest, NanInVReachesItsDimensionOnly) {
  const Case c{100, 64, 2};
  std::vector<float> v = RandomFloats(100 * 64, random_);
  v[50 * 64 + 5] = std::nanf("");
  const Output output =
      Attend(kernel(), c, RandomFloats(2 * 64, random_),
             Store(c.k_dtype, RandomFloats(100 * 64, random_)), Store(c.v_dtype, v));
  for (size_t i = 0; i < output.out.size(); ++i)
    EXPECT_EQ(std::isnan(output.out[i]), i % 64 == 5) << i;
  for (float value : output.lse_ln) EXPECT_TRUE(std::isfinite(value));
}

TEST_P(KernelTest, AMinusInfinityScoreHasNoWeight) {
  const Case c{40, 64, 1};
  const std::vector<float> q(64, 1.0f);
  std::vector<float> k = RandomFloats(40 * 64, random_);
  const auto v = Store(c.v_dtype, RandomFloats(40 * 64, random_));
  k[7 * 64] = -INFINITY;
  const Output output = Attend(kernel(), c, q, Store(c.k_dtype, k), v);
  for (uint32_t d = 0; d < 64; ++d) k[7 * 64 + d] = -1e4f;
  const ReferencePartial expected = Reference(c, q, Store(c.k_dtype, k), v);
  EXPECT_NEAR(output.lse_ln[0], expected.lse_ln[0], 1e-5);
  for (size_t d = 0; d < 64; ++d) EXPECT_NEAR(output.out[d], expected.out[d], 1e-5);
}

TEST_P(KernelTest, ForcedByTheEnvironmentItIsTheOneThatRuns) {
  ASSERT_EQ(setenv("TRIBUTARY_FORCE_CPU_KERNEL", kernel().name, 1), 0);
  const auto selected = cpu_kernels::Select("");
  const auto over_name = cpu_kernels::Select("scalar");
  unsetenv("TRIBUTARY_FORCE_CPU_KERNEL");
  ASSERT_TRUE(selected.ok()) << selected.status();
  EXPECT_EQ(*selected, GetParam());
  EXPECT_EQ(*over_name, GetParam());
}

std::vector<const CpuKernel*> AllKernels() {
  std::vector<const CpuKernel*> kernels;
  for (const CpuKernel& kernel : cpu_kernels::All()) kernels.push_back(&kernel);
  return kernels;
}

INSTANTIATE_TEST_SUITE_P(All, KernelTest, ::testing::ValuesIn(AllKernels()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST(KernelChoice, TheBestIsTheFirstSupported) {
  for (const CpuKernel& kernel : cpu_kernels::All()) {
    if (!cpu_kernels::IsSupported(kernel)) continue;
    EXPECT_EQ(&cpu_kernels::Best(), &kernel);
    break;
  }
  EXPECT_STREQ(cpu_kernels::All().back().name, "scalar");
  EXPECT_EQ(cpu_kernels::All().back().required_isa, 0u);
}

TEST(KernelChoice, UnknownNamesAreErrorsThatListTheKernels) {
  const auto kernel = cpu_kernels::Select("mmx");
  EXPECT_EQ(kernel.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(kernel.status().message()), HasSubstr("'mmx'"));
  EXPECT_THAT(std::string(kernel.status().message()), HasSubstr("scalar"));
  setenv("TRIBUTARY_FORCE_CPU_KERNEL", "sse9", 1);
  const auto forced = cpu_kernels::Select("scalar");
  unsetenv("TRIBUTARY_FORCE_CPU_KERNEL");
  EXPECT_EQ(forced.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(forced.status().message()), HasSubstr("TRIBUTARY_FORCE_CPU_KERNEL"));
}

}  // namespace
}  // namespace tributary
