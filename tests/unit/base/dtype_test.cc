#include "base/dtype.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

// The value of a binary floating-point pattern as IEEE 754 defines it, and not as bits happen to be
// shuffled.
double ValueOf(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int sign = bits >> 15;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  double value;
  if (exponent == (1 << exponent_bits) - 1) {
    value = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(mantissa, 1 - bias - mantissa_bits);
  } else {
    value = std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
  }
  return sign != 0 ? -value : value;
}

template <typename T>
struct Format;
template <>
struct Format<f16_t> {
  static constexpr int kExponentBits = 5, kMantissaBits = 10;
  static constexpr uint16_t kInfinity = 0x7c00;
};
template <>
struct Format<bf16_t> {
  static constexpr int kExponentBits = 8, kMantissaBits = 7;
  static constexpr uint16_t kInfinity = 0x7f80;
};

template <typename T>
double DefinedValue(uint16_t bits) {
  return ValueOf(bits, Format<T>::kExponentBits, Format<T>::kMantissaBits);
}

template <typename T>
class HalfTest : public testing::Test {};
using HalfTypes = testing::Types<f16_t, bf16_t>;
TYPED_TEST_SUITE(HalfTest, HalfTypes);

TYPED_TEST(HalfTest, EveryPatternHasItsDefinedValueAndComesBack) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const TypeParam half{static_cast<uint16_t>(bits)};
    const float value = ToFloat(half);
    const double defined = DefinedValue<TypeParam>(half.bits);
    if (std::isnan(defined)) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(ToFloat(FromFloat<TypeParam>(value)))) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), defined) << bits;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000u) != 0) << bits;
    ASSERT_EQ(FromFloat<TypeParam>(value).bits, bits);
  }
}

// Rounding is decided at the midpoints between neighbours: at one, the even pattern; beside it, the
// nearer one. The last midpoint lies between the largest finite value and the power of two above it
// (infinity's pattern).
TYPED_TEST(HalfTest, RoundsToNearestEvenAtEveryMidpoint) {
  using F = Format<TypeParam>;
  for (uint16_t bits = 0; bits < F::kInfinity; ++bits) {
    const double low = DefinedValue<TypeParam>(bits);
    const double high = bits + 1 == F::kInfinity ? std::ldexp(1.0, 1 << (F::kExponentBits - 1))
                                                 : DefinedValue<TypeParam>(static_cast<uint16_t>(bits + 1));
    const float middle = static_cast<float>(low / 2 + high / 2);
    ASSERT_EQ(static_cast<double>(middle), low / 2 + high / 2) << bits;
    const uint16_t even = bits % 2 == 0 ? bits : static_cast<uint16_t>(bits + 1);
    const float infinity = std::numeric_limits<float>::infinity();
    for (uint16_t sign : {uint16_t{0}, uint16_t{0x8000}}) {
      const float s = sign != 0 ? -1.0f : 1.0f;
      ASSERT_EQ(FromFloat<TypeParam>(s * middle).bits, even | sign) << bits;
      ASSERT_EQ(FromFloat<TypeParam>(s * std::nextafter(middle, -infinity)).bits, bits | sign);
      ASSERT_EQ(FromFloat<TypeParam>(s * std::nextafter(middle, infinity)).bits, (bits + 1) | sign);
    }
  }
}

TYPED_TEST(HalfTest, OverflowsToInfinity) {
  using F = Format<TypeParam>;
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(FromFloat<TypeParam>(infinity).bits, F::kInfinity);
  EXPECT_EQ(FromFloat<TypeParam>(-infinity).bits, F::kInfinity | 0x8000);
  EXPECT_EQ(FromFloat<TypeParam>(std::numeric_limits<float>::max()).bits, F::kInfinity);
}

TEST(DTypeTest, ArraysConvertLikeScalars) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> source(301);
  for (float& value : source) value = normal(random);
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    // An odd start: neither side of a conversion needs alignment.
    std::vector<char> stored(source.size() * DTypeBytes(dtype) + 1);
    std::vector<float> back(source.size());
    ConvertFromF32(dtype, source.data(), source.size(), stored.data() + 1);
    ConvertToF32(dtype, stored.data() + 1, source.size(), back.data());
    for (size_t i = 0; i < source.size(); ++i) {
      float expected = source[i];
      if (dtype == DType::kBf16) expected = ToFloat(FromFloat<bf16_t>(source[i]));
      if (dtype == DType::kF16) expected = ToFloat(FromFloat<f16_t>(source[i]));
      ASSERT_EQ(back[i], expected) << DTypeName(dtype) << " " << i;
    }
    ConvertFromF32(dtype, nullptr, 0, nullptr);
    ConvertToF32(dtype, nullptr, 0, nullptr);
  }
}

TEST(DTypeTest, NamesParseAndUnknownOnesAreNamed) {
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    EXPECT_EQ(*ParseDType(DTypeName(dtype)), dtype);
    EXPECT_TRUE(IsValidDType(dtype));
  }
  EXPECT_FALSE(IsValidDType(DType::kUnset));
  EXPECT_FALSE(IsValidDType(static_cast<DType>(200)));
  const absl::Status status = ParseDType("fp7").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("'fp7'"), std::string::npos);
}

}  // namespace
}  // namespace tributary
