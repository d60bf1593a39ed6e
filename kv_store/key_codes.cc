#include "kv_store/key_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "attention/kv/hadamard.h"
#include "base/check.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Between levels, in standard deviations: least mean squared error of evenly spaced levels (Max 1960, table II).
float LevelSpacing(uint32_t bits) {
  switch (bits) {
    case 1:
      return 1.5958f;
    case 2:
      return 0.9957f;
    default:
      return 0.3352f;
  }
}

StreamRecordsOptions RecordsOf(const KeyCodeOptions& options, const SummarisedKeys& keys) {
  const uint64_t records = (keys.capacity_tokens + kKeyCodeRecordTokens - 1) / kKeyCodeRecordTokens;
  return {keys.num_streams, records, MakeKeyCodeLayout(options.bits, keys.head_dim).record_bytes};
}

absl::Status Validate(const KeyCodeOptions& options, const SummarisedKeys& keys) {
  const auto wrong = [](const std::string& what) { return absl::InvalidArgumentError("key codes: " + what); };
  if (!IsKeyCodeBits(options.bits)) return wrong(fmt::format("{} bits; use 1, 2 or 4", options.bits));
  if (keys.head_dim == 0 || keys.head_dim > limits::kMaxHeadDim) {
    return wrong(fmt::format("head_dim is {}; it must be 1 to {}", keys.head_dim, limits::kMaxHeadDim));
  }
  if (keys.num_streams == 0 || keys.num_streams > uint64_t{limits::kMaxLayers} * limits::kMaxHeads) {
    return wrong(fmt::format("{} streams; there must be 1 to {}", keys.num_streams,
                             uint64_t{limits::kMaxLayers} * limits::kMaxHeads));
  }
  if (keys.capacity_tokens == 0 || keys.capacity_tokens > limits::kMaxContextTokens) {
    return wrong(
        fmt::format("capacity of {} tokens; it must be 1 to {}", keys.capacity_tokens, limits::kMaxContextTokens));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KeyCodes> KeyCodes::Open(const KeyCodeOptions& options, const SummarisedKeys& keys, BlockPool* pool) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(options, keys));
  TRIBUTARY_ASSIGN_OR_RETURN(StreamRecords records, StreamRecords::Open(RecordsOf(options, keys), pool));
  return KeyCodes(options, keys, std::move(records));
}

absl::StatusOr<uint64_t> KeyCodes::ReservedBytes(const KeyCodeOptions& options, const SummarisedKeys& keys,
                                                 size_t extent_bytes) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(options, keys));
  return StreamRecords::ReservedBytes(RecordsOf(options, keys), extent_bytes);
}

KeyCodes::KeyCodes(const KeyCodeOptions& options, const SummarisedKeys& keys, StreamRecords records)
    : options_(options),
      layout_(MakeKeyCodeLayout(options.bits, keys.head_dim)),
      records_(std::move(records)),
      num_records_(keys.num_streams) {}

void KeyCodes::Add(uint64_t stream, const float* keys) {
  TRIBUTARY_CHECK_LT(stream, num_records_.size());
  TRIBUTARY_CHECK_LT(num_records_[stream], records_.records_per_stream());
  EncodeKeyRecord(layout_, keys, records_.At(stream, num_records_[stream]));
  ++num_records_[stream];
}

KeyCodes::Run KeyCodes::RunAt(uint64_t stream, uint64_t token_begin, uint64_t token_end) const {
  TRIBUTARY_CHECK_EQ(token_begin % kKeyCodeRecordTokens, 0u);
  TRIBUTARY_CHECK_EQ(token_end % kKeyCodeRecordTokens, 0u);
  TRIBUTARY_CHECK_LT(token_begin, token_end);
  TRIBUTARY_CHECK_LE(token_end, num_tokens(stream));
  const uint64_t record = token_begin / kKeyCodeRecordTokens;
  const uint64_t run = records_.RunLength(stream, record, token_end / kKeyCodeRecordTokens);
  return {records_.At(stream, record), run * kKeyCodeRecordTokens};
}

// ---- records ----

namespace {

// Sums run in as many lanes, whatever the machine: compilers make vectors of them, and every machine the same bits.
constexpr uint32_t kLanes = 8;
constexpr uint32_t kRecordTokens = kKeyCodeRecordTokens;
constexpr uint32_t kMaxPaddedDim = (limits::kMaxHeadDim + 31) / 32 * 32;

// 64 keys, rotated; dims beyond head_dim are 0.
struct RotatedKeys {
  alignas(64) float rows[kRecordTokens][kMaxPaddedDim];
  bool is_finite[kRecordTokens];
};

bool IsFinite(const float* values, uint32_t count) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t any = 0;
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    any |= (bits & kExponent) == kExponent ? 1u : 0u;
  }
  return any == 0;
}

float SumOfLanes(const float (&lanes)[kLanes]) {
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

void Rotate(const KeyCodeLayout& layout, const float* keys, RotatedKeys* to) {
  for (uint32_t token = 0; token < kRecordTokens; ++token) {
    float* const row = to->rows[token];
    std::memcpy(row, keys + size_t{token} * layout.head_dim, layout.head_dim * sizeof(float));
    std::fill(row + layout.head_dim, row + layout.padded_dim, 0.0f);
    HadamardRotate(row, layout.head_dim);
    to->is_finite[token] = IsFinite(row, layout.head_dim);
  }
}

// The mean of the finite keys as codes, and what those stand for in place of it: [padded_dim] values.
void EncodeMean(const KeyCodeLayout& layout, const RotatedKeys& keys, std::byte* record, float* mean) {
  uint32_t num_finite = 0;
  std::fill(mean, mean + layout.padded_dim, 0.0f);
  for (uint32_t token = 0; token < kRecordTokens; ++token) {
    if (!keys.is_finite[token]) continue;
    ++num_finite;
    // A 64th each, so that finite keys have a finite mean.
    for (uint32_t d = 0; d < layout.padded_dim; ++d) mean[d] += keys.rows[token][d] * (1.0f / kRecordTokens);
  }
  float largest = 0;
  const float correction = num_finite > 0 ? static_cast<float>(kRecordTokens) / static_cast<float>(num_finite) : 0.0f;
  for (uint32_t d = 0; d < layout.padded_dim; ++d) {
    mean[d] *= correction;
    largest = std::max(largest, std::abs(mean[d]));
  }
  // A scale that is not normal would not survive the division.
  const float scale = largest > 0 ? std::max(largest / 127.0f, std::numeric_limits<float>::min()) : 0.0f;
  for (uint32_t d = 0; d < layout.padded_dim; ++d) {
    const float code = scale > 0 ? std::clamp(std::rint(mean[d] / scale), -127.0f, 127.0f) : 0.0f;
    record[layout.mean_begin + d] = static_cast<std::byte>(static_cast<int8_t>(code));
    mean[d] = code * scale;
  }
  std::memcpy(record + layout.mean_scale_begin, &scale, sizeof(scale));
}

// A token's codes, and the scale that makes them nearest to `distance`, the key from the mean; both [padded_dim].
float EncodeToken(const KeyCodeLayout& layout, const float* distance, uint8_t* codes) {
  const auto max_code = static_cast<float>(layout.max_code());
  const uint32_t head_dim = layout.head_dim;
  // Relative to the largest, whose square may be infinite or nothing.
  float largest = 0;
  for (uint32_t d = 0; d < head_dim; ++d) largest = std::max(largest, std::abs(distance[d]));
  if (!(largest > 0x1p-100f)) {
    std::memset(codes, 0, layout.padded_dim);
    return 0;
  }
  const float to_unit = 1 / largest;
  float squares[kLanes] = {}, with_key[kLanes] = {}, with_itself[kLanes] = {};
  for (uint32_t d = 0; d < layout.padded_dim; d += kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const float x = distance[d + lane] * to_unit;
      squares[lane] += x * x;
    }
  }
  const float step = LevelSpacing(layout.bits) * std::sqrt(SumOfLanes(squares) / static_cast<float>(head_dim));
  const float to_code = to_unit / step, half = (max_code + 1) / 2;
  for (uint32_t d = 0; d < layout.padded_dim; ++d) {
    float place = distance[d] * to_code + half;
    place = place > 0 ? place : 0;
    place = place < max_code ? place : max_code;
    codes[d] = static_cast<uint8_t>(static_cast<int32_t>(place));
  }
  for (uint32_t d = 0; d < layout.padded_dim; d += kLanes) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      const float level = static_cast<float>(codes[d + lane]) - max_code / 2;
      with_key[lane] += level * (distance[d + lane] * to_unit);
      with_itself[lane] += level * level;
    }
  }
  const float of_padding = 0.25f * static_cast<float>(layout.padded_dim - head_dim);  // 0 lies half a level high
  return SumOfLanes(with_key) / (SumOfLanes(with_itself) - of_padding) * largest;
}

// Codes of one token into its words (key_code_layout.h).
void WriteCodes(const KeyCodeLayout& layout, const uint8_t* codes, uint32_t token, std::byte* record) {
  const uint32_t num_words = layout.padded_dim / layout.word_dims;
  for (uint32_t i = 0; i < num_words; ++i) {
    uint32_t word = 0;
    for (uint32_t shift = 0; shift < 8; shift += layout.bits, codes += 4) {
      uint32_t quad;
      std::memcpy(&quad, codes, sizeof(quad));
      word |= quad << shift;
    }
    std::memcpy(record + (i * kRecordTokens + token) * sizeof(word), &word, sizeof(word));
  }
}

}  // namespace

void EncodeKeyRecord(const KeyCodeLayout& layout, const float* keys, std::byte* record) {
  RotatedKeys rotated;
  Rotate(layout, keys, &rotated);
  std::memset(record + layout.mean_begin, 0, layout.record_bytes - layout.mean_begin);
  float mean[kMaxPaddedDim];
  EncodeMean(layout, rotated, record, mean);
  uint8_t codes[kMaxPaddedDim];
  for (uint32_t token = 0; token < kRecordTokens; ++token) {
    float* const key = rotated.rows[token];
    for (uint32_t d = 0; d < layout.padded_dim; ++d) key[d] -= mean[d];
    // The distance of a finite key may be infinite.
    float scale = std::numeric_limits<float>::quiet_NaN();
    if (IsFinite(key, layout.head_dim)) {
      scale = EncodeToken(layout, key, codes);
    } else {
      std::memset(codes, 0, layout.padded_dim);
    }
    WriteCodes(layout, codes, token, record);
    std::memcpy(record + layout.scales_begin + token * sizeof(float), &scale, sizeof(scale));
  }
}

void DecodeKeyCodes(const KeyCodeLayout& layout, const std::byte* record, uint32_t token, float* rotated) {
  float scale = 0, mean_scale = 0;
  std::memcpy(&scale, record + layout.scales_begin + token * sizeof(float), sizeof(scale));
  std::memcpy(&mean_scale, record + layout.mean_scale_begin, sizeof(mean_scale));
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    const KeyCodePlace place = PlaceOfKeyCode(layout, d, token);
    const uint32_t code = static_cast<uint32_t>(record[place.byte]) >> place.shift & layout.max_code();
    const auto mean_code = static_cast<int8_t>(record[layout.mean_begin + d]);
    rotated[d] = mean_scale * static_cast<float>(mean_code) +
                 scale * (static_cast<float>(code) - static_cast<float>(layout.max_code()) / 2);
  }
}

}  // namespace tributary
