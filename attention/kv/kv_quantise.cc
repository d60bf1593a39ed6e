#include "attention/kv/kv_quantise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/limits.h"

namespace tributary {
namespace {

// The largest |value|, or NaN if the row has a NaN or an infinity.
float RowMax(const float* row, uint32_t head_dim) {
  float largest = 0;
  bool finite = true;
  for (uint32_t d = 0; d < head_dim; ++d) {
    finite = finite && std::isfinite(row[d]);
    largest = std::max(largest, std::fabs(row[d]));
  }
  return finite ? largest : std::numeric_limits<float>::quiet_NaN();
}

// REQUIRES: value >= 0 and not NaN.
bf16_t RoundUpToBf16(float value) {
  return bf16_t{static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + 0xffffu) >> 16)};
}

constexpr uint16_t kBf16NaN = 0x7fc0;

}  // namespace

void QuantiseKvRow(KvStorage storage, const float* row, uint32_t head_dim, uint8_t* codes, bf16_t* scale) {
  TRIBUTARY_CHECK_LE(head_dim, limits::kMaxHeadDim);
  TRIBUTARY_CHECK(IsValidKvStorage(storage) && !IsFloatKvStorage(storage));
  if (storage == KvStorage::kFp8E4m3) {
    for (uint32_t d = 0; d < head_dim; ++d) codes[d] = Fp8E4m3FromFloat(row[d]);
    return;
  }
  float rotated[limits::kMaxHeadDim];
  std::copy(row, row + head_dim, rotated);
  HadamardRotate(rotated, head_dim);
  const bool is_int8 = storage == KvStorage::kInt8;
  const float largest = RowMax(rotated, head_dim);
  if (std::isnan(largest) || largest < kKvSmallestRowMax) {
    std::fill(codes, codes + head_dim, uint8_t{0});
    *scale = std::isnan(largest) ? bf16_t{kBf16NaN} : bf16_t{0};
    return;
  }
  *scale = RoundUpToBf16(largest / (is_int8 ? 127.0f : 7.5f));
  const float inverse = 1.0f / ToFloat(*scale);
  for (uint32_t d = 0; d < head_dim; ++d) {
    const float scaled = rotated[d] * inverse;
    const int code = is_int8 ? static_cast<int>(std::nearbyintf(scaled))
                             : std::clamp(static_cast<int>(std::floor(scaled)), -8, 7) + 8;
    codes[d] = static_cast<uint8_t>(code);
  }
}

void DequantiseKvRow(KvStorage storage, const uint8_t* codes, bf16_t scale, uint32_t head_dim, float* row) {
  TRIBUTARY_CHECK(IsValidKvStorage(storage) && !IsFloatKvStorage(storage));
  const float factor = ToFloat(scale);
  for (uint32_t d = 0; d < head_dim; ++d) {
    switch (storage) {
      case KvStorage::kInt8:
        row[d] = factor * static_cast<float>(static_cast<int8_t>(codes[d]));
        break;
      case KvStorage::kInt4:
        row[d] = factor * (static_cast<float>(codes[d]) - 7.5f);
        break;
      default:
        row[d] = Fp8E4m3ToFloat(codes[d]);
        break;
    }
  }
  if (IsRotatedKvStorage(storage)) HadamardRotate(row, head_dim);
}

uint8_t Fp8E4m3FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint8_t sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) return sign | 0x7fu;
  if (magnitude >= std::bit_cast<uint32_t>(448.0f)) return sign | 0x7eu;
  if (magnitude < std::bit_cast<uint32_t>(0x1p-6f)) {  // subnormal: multiples of 2^-9
    const float scaled = std::bit_cast<float>(magnitude) * 512.0f;
    return sign | static_cast<uint8_t>(std::nearbyintf(scaled));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return sign | static_cast<uint8_t>((rounded - (120u << 23)) >> 20);
}

float Fp8E4m3ToFloat(uint8_t bits) {
  const int exponent = (bits >> 3) & 0xf;
  const int mantissa = bits & 7;
  float magnitude;
  if ((bits & 0x7f) == 0x7f) {
    magnitude = std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  } else {
    magnitude = std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  }
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

}  // namespace tributary
