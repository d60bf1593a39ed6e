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

bool IsFinite(const float* values, uint32_t count) {
  return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

// The mean of the finite keys as codes, and what those stand for in place of it: [head_dim] values.
void EncodeMean(const KeyCodeLayout& layout, const std::vector<float>& rotated, std::byte* record,
                std::vector<float>* mean) {
  const uint32_t head_dim = layout.head_dim;
  std::vector<double> sums(head_dim);
  uint32_t num_finite = 0;
  for (uint32_t token = 0; token < kKeyCodeRecordTokens; ++token) {
    const float* const key = rotated.data() + size_t{token} * head_dim;
    if (!IsFinite(key, head_dim)) continue;
    ++num_finite;
    for (uint32_t d = 0; d < head_dim; ++d) sums[d] += double{key[d]};
  }
  float largest = 0;
  mean->assign(head_dim, 0.0f);
  for (uint32_t d = 0; d < head_dim && num_finite > 0; ++d) {
    (*mean)[d] = static_cast<float>(sums[d] / num_finite);
    largest = std::max(largest, std::abs((*mean)[d]));
  }
  // A scale that is not normal would not survive the division.
  const float scale = largest > 0 ? std::max(largest / 127.0f, std::numeric_limits<float>::min()) : 0.0f;
  for (uint32_t d = 0; d < head_dim; ++d) {
    const float code = scale > 0 ? std::clamp(std::rint((*mean)[d] / scale), -127.0f, 127.0f) : 0.0f;
    record[layout.mean_begin + d] = static_cast<std::byte>(static_cast<int8_t>(code));
    (*mean)[d] = code * scale;
  }
  std::memcpy(record + layout.mean_scale_begin, &scale, sizeof(scale));
}

// Writes the token's codes; its scale is the one that makes them nearest to `distance`, the key from the mean.
float EncodeToken(const KeyCodeLayout& layout, const float* distance, uint32_t token, std::byte* record) {
  const auto max_code = static_cast<float>(layout.max_code());
  double squares = 0;
  for (uint32_t d = 0; d < layout.head_dim; ++d) squares += double{distance[d]} * double{distance[d]};
  const float step = LevelSpacing(layout.bits) * static_cast<float>(std::sqrt(squares / layout.head_dim));
  if (!(step > std::numeric_limits<float>::min())) return 0;
  double with_key = 0, with_itself = 0;
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    const float code = std::clamp(std::floor(distance[d] / step) + (max_code + 1) / 2, 0.0f, max_code);
    const double level = double{code} - double{max_code} / 2;
    with_key += level * double{distance[d]};
    with_itself += level * level;
    const KeyCodePlace place = PlaceOfKeyCode(layout, d, token);
    record[place.byte] |= static_cast<std::byte>(static_cast<uint32_t>(code) << place.shift);
  }
  return static_cast<float>(with_key / with_itself);
}

}  // namespace

void EncodeKeyRecord(const KeyCodeLayout& layout, const float* keys, std::byte* record) {
  const uint32_t head_dim = layout.head_dim;
  std::memset(record, 0, layout.record_bytes);
  std::vector<float> rotated(keys, keys + size_t{kKeyCodeRecordTokens} * head_dim);
  for (uint32_t token = 0; token < kKeyCodeRecordTokens; ++token) {
    HadamardRotate(rotated.data() + size_t{token} * head_dim, head_dim);
  }
  std::vector<float> mean;
  EncodeMean(layout, rotated, record, &mean);
  for (uint32_t token = 0; token < kKeyCodeRecordTokens; ++token) {
    float* const key = rotated.data() + size_t{token} * head_dim;
    for (uint32_t d = 0; d < head_dim; ++d) key[d] -= mean[d];  // which may be infinite where the key is not
    const float scale =
        IsFinite(key, head_dim) ? EncodeToken(layout, key, token, record) : std::numeric_limits<float>::quiet_NaN();
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
