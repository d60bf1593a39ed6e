#include "base/dtype.h"

#include <cmath>
#include <cstring>

#include "base/check.h"
#include "fmt/format.h"

namespace tributary {

std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBf16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kInt8:
      return "int8";
    case DType::kInt4:
      return "int4";
    case DType::kFp8E4m3:
      return "fp8-e4m3";
    case DType::kUnset:
      break;
  }
  return "unset";
}

absl::StatusOr<DType> ParseDType(std::string_view name) {
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    if (DTypeName(dtype) == name) return dtype;
  }
  return absl::InvalidArgumentError(fmt::format("unknown dtype '{}'; use one of f32, bf16, f16", name));
}

absl::StatusOr<DType> ParseKvDType(std::string_view name) {
  for (DType dtype : {DType::kF32, DType::kBf16, DType::kF16, DType::kInt8, DType::kInt4, DType::kFp8E4m3}) {
    if (DTypeName(dtype) == name) return dtype;
  }
  return absl::InvalidArgumentError(
      fmt::format("unknown KV dtype '{}'; use one of f32, bf16, f16, int8, int4, fp8-e4m3", name));
}

// Without branches, so that a loop over it vectorises: the bits read as f32 are too small by 2^112, also for
// subnormals, and a product mends that exactly; only the exponent of Inf and NaN needs its own value.
float ToFloat(f16_t value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  const float scaled = std::bit_cast<float>(magnitude) * 0x1p112f;
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | special | sign);
}

template <>
bf16_t FromFloat<bf16_t>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {  // NaN: keep it one after the low bits are cut
    return bf16_t{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  }
  const uint32_t rounding = 0x7fffu + ((bits >> 16) & 1u);
  return bf16_t{static_cast<uint16_t>((bits + rounding) >> 16)};
}

template <>
f16_t FromFloat<f16_t>(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return f16_t{static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return f16_t{static_cast<uint16_t>(sign | 0x7c00u)};  // rounds to inf
  if (magnitude < 0x38800000u) {  // below the smallest normal f16: scale so that one ulp is 1
    const float scaled = std::bit_cast<float>(magnitude) * 16777216.0f;  // 2^24
    return f16_t{static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyintf(scaled)))};
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return f16_t{static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}

namespace {

template <typename T>
void ToF32(const void* source, size_t count, float* destination) {
  for (size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, static_cast<const char*>(source) + i * sizeof(T), sizeof(T));
    destination[i] = ToFloat(value);
  }
}

template <typename T>
void FromF32(const float* source, size_t count, void* destination) {
  for (size_t i = 0; i < count; ++i) {
    const T value = FromFloat<T>(source[i]);
    std::memcpy(static_cast<char*>(destination) + i * sizeof(T), &value, sizeof(T));
  }
}

}  // namespace

void ConvertToF32(DType dtype, const void* source, size_t count, float* destination) {
  switch (dtype) {
    case DType::kF32:
      if (count != 0) std::memcpy(destination, source, count * sizeof(float));
      return;
    case DType::kBf16:
      return ToF32<bf16_t>(source, count, destination);
    case DType::kF16:
      return ToF32<f16_t>(source, count, destination);
    default:
      break;
  }
  TRIBUTARY_CHECK(IsValidDType(dtype));
}

void ConvertFromF32(DType dtype, const float* source, size_t count, void* destination) {
  switch (dtype) {
    case DType::kF32:
      if (count != 0) std::memcpy(destination, source, count * sizeof(float));
      return;
    case DType::kBf16:
      return FromF32<bf16_t>(source, count, destination);
    case DType::kF16:
      return FromF32<f16_t>(source, count, destination);
    default:
      break;
  }
  TRIBUTARY_CHECK(IsValidDType(dtype));
}

}  // namespace tributary
