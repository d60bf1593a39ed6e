#include "wire/frame_builder.h"

#include <algorithm>

#include "base/check.h"
#include "base/limits.h"

namespace tributary {
namespace {

template <typename T>
void WriteAt(std::span<std::byte> payload, size_t offset_bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  TRIBUTARY_CHECK_LE(offset_bytes + sizeof(T), payload.size());
  std::memcpy(payload.data() + offset_bytes, &value, sizeof(T));
}

void CheckAligned(std::span<std::byte> payload) {
  TRIBUTARY_CHECK_EQ(reinterpret_cast<uintptr_t>(payload.data()) % 8, 0u);
}

// `count` numbers of T's size at an offset that is a multiple of it; advances the offset.
template <typename T>
std::span<T> Take(std::span<std::byte> payload, size_t& offset_bytes, size_t count) {
  TRIBUTARY_CHECK_LE(offset_bytes + count * sizeof(T), payload.size());
  T* begin = reinterpret_cast<T*>(payload.data() + offset_bytes);
  offset_bytes += count * sizeof(T);
  return {begin, count};
}

// Fills up to a multiple of 8 with zeros; advances the offset.
void Pad(std::span<std::byte> payload, size_t& offset_bytes) {
  const size_t end = PaddedBytes(offset_bytes);
  TRIBUTARY_CHECK_LE(end, payload.size());
  std::fill_n(payload.begin() + static_cast<ptrdiff_t>(offset_bytes), end - offset_bytes, std::byte{0});
  offset_bytes = end;
}

// The policy section behind data that end at the offset; advances it beyond both.
std::span<std::byte> TakePolicy(std::span<std::byte> payload, size_t& offset_bytes, uint32_t policy_bytes) {
  Pad(payload, offset_bytes);
  const std::span<std::byte> section = Take<std::byte>(payload, offset_bytes, policy_bytes);
  Pad(payload, offset_bytes);
  return section;
}

bool HasData(const PartialEntry& entry) { return entry.status == static_cast<uint32_t>(FrameError::kOk); }

size_t ErrorTextBytes(std::string_view text) { return std::min<size_t>(text.size(), limits::kMaxErrorTextBytes); }

}  // namespace

size_t QueryEntryBytes(const QueryEntry& entry, uint32_t head_dim) {
  return sizeof(QueryEntry) + PaddedBytes(QueryBytes(entry, head_dim)) + PaddedBytes(entry.policy_bytes);
}

size_t PartialEntryBytes(const PartialEntry& entry, uint32_t head_dim) {
  if (!HasData(entry)) return sizeof(PartialEntry);
  return sizeof(PartialEntry) + PaddedBytes(PartialBytes(entry, head_dim)) + PaddedBytes(entry.policy_bytes);
}

size_t QueryPayloadBytes(std::span<const QueryEntry> entries, uint32_t head_dim) {
  size_t bytes = sizeof(QueryBody);
  for (const QueryEntry& entry : entries) bytes += QueryEntryBytes(entry, head_dim);
  return bytes;
}

size_t PartialPayloadBytes(std::span<const PartialEntry> entries, uint32_t head_dim) {
  size_t bytes = sizeof(PartialBody);
  for (const PartialEntry& entry : entries) bytes += PartialEntryBytes(entry, head_dim);
  return bytes;
}

QueryPayloadWriter::QueryPayloadWriter(std::span<std::byte> payload, uint32_t num_entries, uint32_t head_dim,
                                       float softmax_scale, float soft_cap)
    : payload_(payload),
      num_entries_(num_entries),
      head_dim_(head_dim),
      next_data_(sizeof(QueryBody) + size_t{num_entries} * sizeof(QueryEntry)) {
  CheckAligned(payload);
  WriteAt(payload_, 0,
          QueryBody{
              .num_entries = num_entries, .softmax_scale = softmax_scale, .head_dim = head_dim, .soft_cap = soft_cap});
}

QuerySpans QueryPayloadWriter::Add(QueryEntry entry) {
  TRIBUTARY_CHECK_LT(num_added_, num_entries_);
  entry.q_offset_bytes = static_cast<uint32_t>(next_data_);
  WriteAt(payload_, sizeof(QueryBody) + size_t{num_added_} * sizeof(QueryEntry), entry);
  ++num_added_;
  QuerySpans spans;
  spans.q = Take<float>(payload_, next_data_, size_t{entry.n_q} * entry.num_q_heads * head_dim_);
  if ((entry.flags & kQueryDenseHeads) != 0) {
    spans.dense_heads = Take<uint32_t>(payload_, next_data_, DenseHeadWords(entry.num_q_heads));
  }
  spans.policy = TakePolicy(payload_, next_data_, entry.policy_bytes);
  return spans;
}

PartialPayloadWriter::PartialPayloadWriter(std::span<std::byte> payload, uint32_t num_entries, uint32_t head_dim)
    : payload_(payload),
      num_entries_(num_entries),
      head_dim_(head_dim),
      next_data_(sizeof(PartialBody) + size_t{num_entries} * sizeof(PartialEntry)) {
  CheckAligned(payload);
  WriteAt(payload_, 0, PartialBody{.num_entries = num_entries, .head_dim = head_dim});
}

PartialSpans PartialPayloadWriter::Add(PartialEntry entry) {
  TRIBUTARY_CHECK_LT(num_added_, num_entries_);
  entry.data_offset_bytes = HasData(entry) ? static_cast<uint32_t>(next_data_) : 0;
  WriteAt(payload_, sizeof(PartialBody) + size_t{num_added_} * sizeof(PartialEntry), entry);
  ++num_added_;
  if (!HasData(entry)) return {};
  const size_t rows = size_t{entry.n_q} * entry.num_q_heads;
  PartialSpans spans;
  spans.out = Take<float>(payload_, next_data_, rows * head_dim_);
  spans.lse_ln = Take<float>(payload_, next_data_, rows);
  if ((entry.flags & kPartialMeasured) != 0) {
    spans.sample.out = Take<float>(payload_, next_data_, rows * head_dim_);
    spans.sample.lse_ln = Take<float>(payload_, next_data_, rows);
    spans.attended_tokens = Take<uint32_t>(payload_, next_data_, entry.num_kv_heads);
    spans.sampled_tokens = Take<uint32_t>(payload_, next_data_, entry.num_kv_heads);
  }
  spans.policy = TakePolicy(payload_, next_data_, entry.policy_bytes);
  return spans;
}

void PartialPayloadWriter::SetCoverage(uint32_t i, Coverage coverage) {
  TRIBUTARY_CHECK_LT(i, num_added_);
  const size_t offset_bytes = sizeof(PartialBody) + size_t{i} * sizeof(PartialEntry);
  PartialEntry entry = ReadAt<PartialEntry>(payload_, offset_bytes);
  entry.covered_tokens = coverage.covered_tokens;
  entry.attended_head_tokens = coverage.attended_head_tokens;
  WriteAt(payload_, offset_bytes, entry);
}

void PartialPayloadWriter::SetTimes(uint64_t queue_ns, uint64_t compute_ns) {
  PartialBody body = ReadAt<PartialBody>(payload_, 0);
  body.queue_ns = queue_ns;
  body.compute_ns = compute_ns;
  WriteAt(payload_, 0, body);
}

size_t SpillPayloadBytes(const SpillBody& body) {
  const DType k_dtype = static_cast<DType>(body.k_dtype);
  const DType v_dtype = static_cast<DType>(body.v_dtype);
  TRIBUTARY_CHECK(IsValidDType(k_dtype) && IsValidDType(v_dtype));
  const size_t elements = size_t{body.num_tokens} * body.num_kv_heads * body.head_dim;
  const size_t bytes = sizeof(SpillBody) + elements * (DTypeBytes(k_dtype) + DTypeBytes(v_dtype));
  return body.policy_bytes == 0 ? bytes : PaddedBytes(bytes) + body.policy_bytes;
}

SpillSpans WriteSpill(const SpillBody& body, std::span<std::byte> payload) {
  TRIBUTARY_CHECK_EQ(payload.size(), SpillPayloadBytes(body));
  WriteAt(payload, 0, body);
  const size_t elements = size_t{body.num_tokens} * body.num_kv_heads * body.head_dim;
  size_t next = sizeof(SpillBody);
  SpillSpans spans;
  spans.k = Take<std::byte>(payload, next, elements * DTypeBytes(static_cast<DType>(body.k_dtype)));
  spans.v = Take<std::byte>(payload, next, elements * DTypeBytes(static_cast<DType>(body.v_dtype)));
  if (body.policy_bytes == 0) return spans;
  Pad(payload, next);
  spans.policy = Take<std::byte>(payload, next, body.policy_bytes);
  return spans;
}

void WriteAck(const AckBody& ack, std::span<std::byte> payload) {
  TRIBUTARY_CHECK_EQ(payload.size(), kAckPayloadBytes);
  WriteAt(payload, 0, ack);
}

size_t ErrorPayloadBytes(std::string_view text) { return sizeof(ErrorBody) + ErrorTextBytes(text); }

void WriteError(ErrorBody error, std::string_view text, std::span<std::byte> payload) {
  TRIBUTARY_CHECK_EQ(payload.size(), ErrorPayloadBytes(text));
  error.text_bytes = static_cast<uint32_t>(ErrorTextBytes(text));
  WriteAt(payload, 0, error);
  if (error.text_bytes != 0) {
    std::memcpy(payload.data() + sizeof(ErrorBody), text.data(), error.text_bytes);
  }
}

void WriteHeartbeat(const HeartbeatBody& heartbeat, std::span<std::byte> payload) {
  TRIBUTARY_CHECK_EQ(payload.size(), kHeartbeatPayloadBytes);
  WriteAt(payload, 0, heartbeat);
}

}  // namespace tributary
