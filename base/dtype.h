// Storage types of KV and weights, and their scalar conversions (round to nearest even).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/statusor.h"

namespace tributary {

// Values are on the wire (wire/frame.h) and in proto DType: never renumber. KV may be stored in any of them; rows are
// exchanged in the first three only (the others lie in tiles, with params beside the codes:
// attention/kv/kv_quantise.h).
enum class DType : uint8_t { kUnset = 0, kF32 = 1, kBf16 = 2, kF16 = 3, kInt8 = 4, kInt4 = 5, kFp8E4m3 = 6 };

// Bytes of one element of an exchange dtype; 0 for kUnset, a quantised dtype or a value that is no DType.
constexpr size_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 4;
    case DType::kBf16:
    case DType::kF16:
      return 2;
    case DType::kInt8:
    case DType::kInt4:
    case DType::kFp8E4m3:
    case DType::kUnset:
      break;
  }
  return 0;
}

// What rows may be exchanged in.
constexpr bool IsValidDType(DType dtype) { return DTypeBytes(dtype) != 0; }
constexpr bool IsQuantisedDType(DType dtype) {
  return dtype == DType::kInt8 || dtype == DType::kInt4 || dtype == DType::kFp8E4m3;
}
// What KV may be stored in.
constexpr bool IsKvDType(DType dtype) { return IsValidDType(dtype) || IsQuantisedDType(dtype); }

// "f32", "bf16", "f16", "int8", "int4", "fp8-e4m3"; "unset" otherwise.
std::string_view DTypeName(DType dtype);
// The exchange dtypes.
absl::StatusOr<DType> ParseDType(std::string_view name);
// All of them.
absl::StatusOr<DType> ParseKvDType(std::string_view name);

struct bf16_t {
  uint16_t bits = 0;
};
struct f16_t {
  uint16_t bits = 0;
};
static_assert(sizeof(bf16_t) == 2 && sizeof(f16_t) == 2);

inline float ToFloat(float value) { return value; }
inline float ToFloat(bf16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }
float ToFloat(f16_t value);

template <typename T>
T FromFloat(float value);
template <>
inline float FromFloat<float>(float value) {
  return value;
}
template <>
bf16_t FromFloat<bf16_t>(float value);
template <>
f16_t FromFloat<f16_t>(float value);

// Converts `count` elements; neither side needs alignment. REQUIRES: valid dtype, disjoint memory.
void ConvertToF32(DType dtype, const void* source, size_t count, float* destination);
void ConvertFromF32(DType dtype, const float* source, size_t count, void* destination);

}  // namespace tributary
