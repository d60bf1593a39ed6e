#include "kv_store/block_summaries.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/dtype.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

StreamRecordsOptions RecordsOf(const BlockSummaryOptions& options, const SummarisedKeys& keys) {
  const uint64_t blocks = (keys.capacity_tokens + options.block_tokens - 1) / options.block_tokens;
  const uint64_t records = (blocks + kSummaryRecordBlocks - 1) / kSummaryRecordBlocks;
  return {keys.num_streams, records, MakeBlockSummaryLayout(options.kind, options.storage, keys.head_dim).record_bytes};
}

absl::Status Validate(const BlockSummaryOptions& options, const SummarisedKeys& keys) {
  const auto& [head_dim, num_streams, capacity_tokens] = keys;
  const auto wrong = [](const std::string& what) { return absl::InvalidArgumentError("block summaries: " + what); };
  if (options.block_tokens < 16 || options.block_tokens > 128 || !std::has_single_bit(options.block_tokens)) {
    return wrong(fmt::format("block_tokens is {}; it must be 16, 32, 64 or 128", options.block_tokens));
  }
  if (options.kind != SummaryKind::kMean && options.kind != SummaryKind::kMinMax) {
    return wrong(fmt::format("unknown kind {}", static_cast<int>(options.kind)));
  }
  if (options.storage != SummaryStorage::kBf16 && options.storage != SummaryStorage::kInt8) {
    return wrong(fmt::format("unknown storage {}", static_cast<int>(options.storage)));
  }
  if (head_dim == 0 || head_dim > limits::kMaxHeadDim) {
    return wrong(fmt::format("head_dim is {}; it must be 1 to {}", head_dim, limits::kMaxHeadDim));
  }
  if (num_streams == 0 || num_streams > uint64_t{limits::kMaxLayers} * limits::kMaxHeads) {
    return wrong(fmt::format("{} streams; there must be 1 to {}", num_streams,
                             uint64_t{limits::kMaxLayers} * limits::kMaxHeads));
  }
  if (capacity_tokens == 0 || capacity_tokens > limits::kMaxContextTokens) {
    return wrong(fmt::format("capacity of {} tokens; it must be 1 to {}", capacity_tokens, limits::kMaxContextTokens));
  }
  return absl::OkStatus();
}

// Bf16 that does not round towards the inside of the interval: `up` for maxima, down for minima.
uint16_t RoundBf16(float value, SummaryKind kind, bool up) {
  bf16_t rounded = FromFloat<bf16_t>(value);
  if (kind == SummaryKind::kMean || !std::isfinite(value)) return rounded.bits;
  const float back = ToFloat(rounded);
  if (back == value || (back > value) == up) return rounded.bits;
  // One step outwards: away from zero is a larger magnitude, towards zero a smaller one; never from zero itself, which
  // is exact.
  return static_cast<uint16_t>((value > 0) == up ? rounded.bits + 1 : rounded.bits - 1);
}

uint8_t CodeInt8(float value, float to_code, SummaryKind kind, bool up) {
  const float scaled = value * to_code;
  float rounded = std::rint(scaled);
  if (kind == SummaryKind::kMinMax) rounded = up ? std::ceil(scaled) : std::floor(scaled);
  return static_cast<uint8_t>(std::clamp(rounded, -128.0f, 127.0f) + static_cast<float>(kSummaryCodeZero));
}

void StoreInt8(const BlockSummaryLayout& layout, const float* rows, uint32_t block, std::byte* record) {
  float largest = 0;
  bool is_finite = true;
  for (uint32_t row = 0; row < layout.rows; ++row) {
    is_finite = is_finite && std::isfinite(rows[row]);
    largest = std::max(largest, std::abs(rows[row]));
  }
  const bool is_number = is_finite && largest > 0;
  // A scale that is not normal would not survive the division.
  const float scale = std::max(largest / 127.0f, std::numeric_limits<float>::min());
  const float to_code = is_number ? 1.0f / scale : 0.0f;
  for (uint32_t row = 0; row < layout.rows; ++row) {
    const uint8_t code = CodeInt8(is_number ? rows[row] : 0.0f, to_code, layout.kind, row < layout.padded_dim);
    record[SummaryCodeIndex(layout, row, block)] = std::byte{code};
  }
  const float stored = is_finite ? (largest > 0 ? scale : 0.0f) : std::nanf("");
  std::memcpy(record + layout.scales_begin + block * sizeof(float), &stored, sizeof(stored));
}

}  // namespace

void StoreBlockSummary(const BlockSummaryLayout& layout, const float* rows, uint32_t block, std::byte* record) {
  if (layout.storage == SummaryStorage::kInt8) {
    StoreInt8(layout, rows, block, record);
    return;
  }
  for (uint32_t row = 0; row < layout.rows; ++row) {
    const uint16_t bits = RoundBf16(rows[row], layout.kind, row < layout.padded_dim);
    std::memcpy(record + SummaryCodeIndex(layout, row, block) * sizeof(bits), &bits, sizeof(bits));
  }
}

absl::StatusOr<BlockSummaries> BlockSummaries::Open(const BlockSummaryOptions& options, const SummarisedKeys& keys,
                                                    BlockPool* pool) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(options, keys));
  TRIBUTARY_ASSIGN_OR_RETURN(StreamRecords records, StreamRecords::Open(RecordsOf(options, keys), pool));
  return BlockSummaries(options, keys, std::move(records));
}

absl::StatusOr<uint64_t> BlockSummaries::ReservedBytes(const BlockSummaryOptions& options, const SummarisedKeys& keys,
                                                       size_t extent_bytes) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(options, keys));
  return StreamRecords::ReservedBytes(RecordsOf(options, keys), extent_bytes);
}

BlockSummaries::BlockSummaries(const BlockSummaryOptions& options, const SummarisedKeys& keys, StreamRecords records)
    : options_(options),
      layout_(MakeBlockSummaryLayout(options.kind, options.storage, keys.head_dim)),
      records_(std::move(records)),
      streams_(keys.num_streams) {
  for (Stream& stream : streams_) {
    stream.sum_or_max.resize(keys.head_dim);
    if (options.kind == SummaryKind::kMinMax) stream.min.resize(keys.head_dim);
  }
}

uint32_t BlockSummaries::num_blocks(uint64_t stream) const {
  return static_cast<uint32_t>((streams_[stream].num_tokens + options_.block_tokens - 1) / options_.block_tokens);
}

BlockSummaries::Run BlockSummaries::RunAt(uint64_t stream, uint32_t block_begin, uint32_t block_end) const {
  TRIBUTARY_CHECK_EQ(block_begin % kSummaryRecordBlocks, 0u);
  TRIBUTARY_CHECK_LT(block_begin, block_end);
  TRIBUTARY_CHECK_LE(block_end, num_blocks(stream));
  const uint64_t record = block_begin / kSummaryRecordBlocks;
  const uint64_t end = (uint64_t{block_end} + kSummaryRecordBlocks - 1) / kSummaryRecordBlocks;
  const uint64_t blocks = records_.RunLength(stream, record, end) * kSummaryRecordBlocks;
  return {records_.At(stream, record), static_cast<uint32_t>(std::min<uint64_t>(blocks, block_end - block_begin))};
}

void BlockSummaries::AddToBlock(Stream& stream, const float* key, bool is_first) {
  float* sum_or_max = stream.sum_or_max.data();
  const uint32_t head_dim = layout_.head_dim;
  if (is_first) {
    std::copy_n(key, head_dim, sum_or_max);
    if (options_.kind == SummaryKind::kMinMax) std::copy_n(key, head_dim, stream.min.data());
    return;
  }
  if (options_.kind == SummaryKind::kMean) {
    for (uint32_t d = 0; d < head_dim; ++d) sum_or_max[d] += key[d];
    return;
  }
  float* min = stream.min.data();
  for (uint32_t d = 0; d < head_dim; ++d) {
    // Written so that a NaN stays.
    if (!(key[d] <= sum_or_max[d]) && sum_or_max[d] == sum_or_max[d]) sum_or_max[d] = key[d];
    if (!(key[d] >= min[d]) && min[d] == min[d]) min[d] = key[d];
  }
}

void BlockSummaries::WriteBlock(uint64_t stream_idx) {
  const Stream& stream = streams_[stream_idx];
  const uint64_t block = (stream.num_tokens - 1) / options_.block_tokens;
  const uint64_t tokens = stream.num_tokens - block * options_.block_tokens;
  float rows[2 * limits::kMaxHeadDim] = {};
  for (uint32_t d = 0; d < layout_.head_dim; ++d) {
    rows[d] = stream.sum_or_max[d];
    if (options_.kind == SummaryKind::kMean) {
      rows[d] /= static_cast<float>(tokens);
    } else {
      rows[layout_.padded_dim + d] = stream.min[d];
    }
  }
  std::byte* record = records_.At(stream_idx, block / kSummaryRecordBlocks);
  // The first block of a record comes first: the others' places were another shard's of old.
  if (block % kSummaryRecordBlocks == 0) std::memset(record, 0, layout_.record_bytes);
  StoreBlockSummary(layout_, rows, static_cast<uint32_t>(block % kSummaryRecordBlocks), record);
}

void BlockSummaries::Append(uint64_t stream_idx, const float* keys, size_t row_stride, uint64_t num_tokens) {
  TRIBUTARY_CHECK_LT(stream_idx, streams_.size());
  Stream& stream = streams_[stream_idx];
  const uint64_t block_tokens = options_.block_tokens;
  const uint64_t blocks = (stream.num_tokens + num_tokens + block_tokens - 1) / block_tokens;
  TRIBUTARY_CHECK_LE((blocks + kSummaryRecordBlocks - 1) / kSummaryRecordBlocks, records_.records_per_stream());
  for (uint64_t i = 0; i < num_tokens; ++i) {
    AddToBlock(stream, keys + i * row_stride, stream.num_tokens % block_tokens == 0);
    ++stream.num_tokens;
    if (stream.num_tokens % block_tokens == 0 || i + 1 == num_tokens) WriteBlock(stream_idx);
  }
}

}  // namespace tributary
