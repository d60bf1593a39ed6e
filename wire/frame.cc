#include "wire/frame.h"

#include <algorithm>
#include <cmath>

#include "base/limits.h"

namespace tributary {
namespace {

// All products below fit: a frame's counts are bounded by limits.h, n_q and num_tokens by 2^32, so
// the largest, of a measured partial, is 2^32 tokens x 2^10 heads x 2^9 elements x 4 bytes = 2^53.

bool IsZero(std::span<const std::byte> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

// Walks the data of a frame's entries: in order, without a gap, ending with the payload.
class DataCursor {
 public:
  DataCursor(uint64_t begin, std::span<const std::byte> payload) : next_(begin), payload_(payload) {}

  // One entry's data and its policy section.
  FrameError Take(uint64_t offset_bytes, uint64_t data_bytes, uint32_t policy_bytes) {
    const uint64_t policy_offset = offset_bytes + PaddedBytes(data_bytes);
    const uint64_t end = policy_offset + PaddedBytes(policy_bytes);
    if (policy_bytes > limits::kMaxPolicySectionBytes) return FrameError::kBadSize;
    if (offset_bytes < next_) return FrameError::kBadSize;  // into the table or an earlier entry
    if (end > payload_.size()) return FrameError::kTruncated;
    if (offset_bytes != next_) return FrameError::kBadSize;
    if (!IsFill(offset_bytes + data_bytes, policy_offset) || !IsFill(policy_offset + policy_bytes, end)) {
      return FrameError::kMalformed;
    }
    next_ = end;
    return FrameError::kOk;
  }
  FrameError Finish() const { return next_ == payload_.size() ? FrameError::kOk : FrameError::kBadSize; }

 private:
  bool IsFill(uint64_t begin, uint64_t end) const { return IsZero(payload_.subspan(begin, end - begin)); }

  uint64_t next_;
  std::span<const std::byte> payload_;
};

template <typename Body>
FrameError ReadBody(std::span<const std::byte> payload, Body* body) {
  if (payload.size() > limits::kMaxFramePayloadBytes) return FrameError::kBadSize;
  if (payload.size() < sizeof(Body)) return FrameError::kTruncated;
  *body = ReadAt<Body>(payload, 0);
  return FrameError::kOk;
}

FrameError CheckExactSize(size_t payload_bytes, uint64_t expected_bytes) {
  if (payload_bytes < expected_bytes) return FrameError::kTruncated;
  return payload_bytes == expected_bytes ? FrameError::kOk : FrameError::kBadSize;
}

FrameError CheckEntryTable(size_t payload_bytes, uint64_t body_bytes, uint32_t num_entries, uint64_t entry_bytes,
                           uint32_t head_dim) {
  if (num_entries == 0 || num_entries > limits::kMaxEntriesPerFrame) return FrameError::kBadSize;
  if (head_dim == 0 || head_dim > limits::kMaxHeadDim) return FrameError::kBadGeometry;
  if (body_bytes + num_entries * entry_bytes > payload_bytes) return FrameError::kTruncated;
  return FrameError::kOk;
}

FrameError CheckRows(uint32_t n_q, uint32_t num_q_heads) {
  if (n_q == 0) return FrameError::kBadSize;
  if (num_q_heads == 0 || num_q_heads > limits::kMaxHeads) return FrameError::kBadGeometry;
  return FrameError::kOk;
}

bool IsFrameError(uint32_t value) { return value < kNumFrameErrors; }

bool IsTokenRange(uint64_t begin, uint64_t size) {
  return begin <= limits::kMaxContextTokens && size <= limits::kMaxContextTokens - begin;
}

FrameError CheckQueryFlags(uint32_t flags) {
  const bool append = (flags & kQueryAppend) != 0;
  if ((flags & ~kQueryFlags) != 0 || (append && (flags & (kQueryMeasure | kQueryDenseHeads)) != 0) ||
      (!append && (flags & kQueryAppendEnd) != 0)) {
    return FrameError::kMalformed;
  }
  return FrameError::kOk;
}

FrameError CheckQueryEntry(const QueryEntry& entry) {
  if (const FrameError error = CheckQueryFlags(entry.flags); error != FrameError::kOk) return error;
  if (entry.reserved != 0) return FrameError::kMalformed;
  if (entry.visible_begin > entry.visible_end || entry.visible_end > limits::kMaxContextTokens) {
    return FrameError::kOutOfRange;
  }
  return CheckRows(entry.n_q, entry.num_q_heads);
}

FrameError CheckPartialEntry(const PartialEntry& entry) {
  if (!IsFrameError(entry.status) || entry.reserved != 0) return FrameError::kMalformed;
  if (entry.status != static_cast<uint32_t>(FrameError::kOk)) return FrameError::kOk;
  if ((entry.flags & ~kPartialMeasured) != 0) return FrameError::kMalformed;
  if (const FrameError error = CheckRows(entry.n_q, entry.num_q_heads); error != FrameError::kOk) {
    return error;
  }
  if (entry.num_kv_heads == 0 || entry.num_q_heads % entry.num_kv_heads != 0) {
    return FrameError::kBadGeometry;
  }
  if (entry.covered_tokens > limits::kMaxContextTokens ||
      entry.attended_head_tokens > entry.covered_tokens * entry.num_kv_heads) {
    return FrameError::kOutOfRange;
  }
  return FrameError::kOk;
}

// What was measured says the same as the entry: of each KV head the larger number is what is covered, and the attended
// ones add up.
FrameError CheckMeasured(const PartialEntry& entry, std::span<const std::byte> attended_tokens,
                         std::span<const std::byte> sampled_tokens) {
  if ((entry.flags & kPartialMeasured) == 0) return FrameError::kOk;
  uint64_t sum = 0;
  for (uint32_t head = 0; head < entry.num_kv_heads; ++head) {
    const auto attended = ReadAt<uint32_t>(attended_tokens, head * sizeof(uint32_t));
    const auto sampled = ReadAt<uint32_t>(sampled_tokens, head * sizeof(uint32_t));
    if (std::max(attended, sampled) != entry.covered_tokens) return FrameError::kOutOfRange;
    sum += attended;
  }
  return sum == entry.attended_head_tokens ? FrameError::kOk : FrameError::kOutOfRange;
}

}  // namespace

#define TRIBUTARY_RETURN_IF_FRAME_ERROR(expression)                          \
  do {                                                                       \
    if (const FrameError error_ = (expression); error_ != FrameError::kOk) { \
      return error_;                                                         \
    }                                                                        \
  } while (false)

std::string_view FrameErrorName(FrameError error) {
  static constexpr std::array<std::string_view, kNumFrameErrors> kNames = {
      "ok",          "truncated",    "bad_magic",     "bad_version",
      "bad_type",    "bad_size",     "bad_auth_tag",  "unknown_session",
      "stale_epoch", "replayed",     "unknown_shard", "bad_geometry",
      "not_stored",  "out_of_range", "exhausted",     "malformed",
      "bad_payload", "not_granted",  "other_content", "corrupt_kv"};
  const uint32_t value = static_cast<uint32_t>(error);
  return IsFrameError(value) ? kNames[value] : "unknown";
}

FrameError DecodeHeader(std::span<const std::byte> header_bytes, size_t payload_size, FrameHeader* header) {
  TRIBUTARY_RETURN_IF_FRAME_ERROR(CheckExactSize(header_bytes.size(), kFrameHeaderBytes));
  *header = ReadAt<FrameHeader>(header_bytes, 0);
  if (header->magic != kFrameMagic) return FrameError::kBadMagic;
  if (header->version != kFrameVersion) return FrameError::kBadVersion;
  if (header->type < static_cast<uint8_t>(FrameType::kQuery) ||
      header->type > static_cast<uint8_t>(FrameType::kHeartbeat)) {
    return FrameError::kBadType;
  }
  if (header->flags != 0) return FrameError::kMalformed;
  if (header->layer >= limits::kMaxLayers) return FrameError::kOutOfRange;
  if (header->payload_bytes > limits::kMaxFramePayloadBytes) return FrameError::kBadSize;
  return CheckExactSize(payload_size, header->payload_bytes);
}

FrameError QueryView::Decode(std::span<const std::byte> payload, QueryView* view) {
  QueryBody body;
  TRIBUTARY_RETURN_IF_FRAME_ERROR(ReadBody(payload, &body));
  if (!std::isfinite(body.softmax_scale) || body.softmax_scale <= 0) return FrameError::kMalformed;
  // Written so that NaN is none.
  const bool is_cap = body.soft_cap >= limits::kMinSoftCap && body.soft_cap <= limits::kMaxSoftCap;
  if (body.soft_cap != 0 && !is_cap) return FrameError::kMalformed;
  TRIBUTARY_RETURN_IF_FRAME_ERROR(
      CheckEntryTable(payload.size(), sizeof(QueryBody), body.num_entries, sizeof(QueryEntry), body.head_dim));
  view->payload_ = payload;
  view->body_ = body;
  DataCursor data(sizeof(QueryBody) + uint64_t{body.num_entries} * sizeof(QueryEntry), payload);
  for (uint32_t i = 0; i < body.num_entries; ++i) {
    const QueryEntry entry = view->entry(i);
    TRIBUTARY_RETURN_IF_FRAME_ERROR(CheckQueryEntry(entry));
    TRIBUTARY_RETURN_IF_FRAME_ERROR(
        data.Take(entry.q_offset_bytes, QueryBytes(entry, body.head_dim), entry.policy_bytes));
  }
  return data.Finish();
}

FrameError PartialFrameView::Decode(std::span<const std::byte> payload, PartialFrameView* view) {
  PartialBody body;
  TRIBUTARY_RETURN_IF_FRAME_ERROR(ReadBody(payload, &body));
  TRIBUTARY_RETURN_IF_FRAME_ERROR(
      CheckEntryTable(payload.size(), sizeof(PartialBody), body.num_entries, sizeof(PartialEntry), body.head_dim));
  view->payload_ = payload;
  view->body_ = body;
  DataCursor data(sizeof(PartialBody) + uint64_t{body.num_entries} * sizeof(PartialEntry), payload);
  for (uint32_t i = 0; i < body.num_entries; ++i) {
    const PartialEntry entry = view->entry(i);
    TRIBUTARY_RETURN_IF_FRAME_ERROR(CheckPartialEntry(entry));
    if (entry.status != static_cast<uint32_t>(FrameError::kOk)) continue;
    TRIBUTARY_RETURN_IF_FRAME_ERROR(
        data.Take(entry.data_offset_bytes, PartialBytes(entry, body.head_dim), entry.policy_bytes));
    TRIBUTARY_RETURN_IF_FRAME_ERROR(CheckMeasured(entry, view->attended_tokens(entry), view->sampled_tokens(entry)));
  }
  return data.Finish();
}

FrameError SpillView::Decode(std::span<const std::byte> payload, SpillView* view) {
  SpillBody body;
  TRIBUTARY_RETURN_IF_FRAME_ERROR(ReadBody(payload, &body));
  if (body.reserved != 0 || body.reserved_end != 0) return FrameError::kMalformed;
  const DType k_dtype = static_cast<DType>(body.k_dtype);
  const DType v_dtype = static_cast<DType>(body.v_dtype);
  if (!IsValidDType(k_dtype) || !IsValidDType(v_dtype) || body.num_kv_heads == 0 ||
      body.num_kv_heads > limits::kMaxHeads || body.head_dim == 0 || body.head_dim > limits::kMaxHeadDim) {
    return FrameError::kBadGeometry;
  }
  if (body.num_tokens == 0) return FrameError::kBadSize;
  if (!IsTokenRange(body.token_begin, body.num_tokens)) return FrameError::kOutOfRange;
  if (body.policy_bytes > limits::kMaxPolicySectionBytes) return FrameError::kBadSize;
  const uint64_t elements = uint64_t{body.num_tokens} * body.num_kv_heads * body.head_dim;
  const uint64_t k_bytes = elements * DTypeBytes(k_dtype);
  const uint64_t v_bytes = elements * DTypeBytes(v_dtype);
  const uint64_t kv_end = sizeof(SpillBody) + k_bytes + v_bytes;
  const uint64_t policy_begin = body.policy_bytes == 0 ? kv_end : PaddedBytes(kv_end);
  TRIBUTARY_RETURN_IF_FRAME_ERROR(CheckExactSize(payload.size(), policy_begin + body.policy_bytes));
  if (!IsZero(payload.subspan(kv_end, policy_begin - kv_end))) return FrameError::kMalformed;
  view->payload_ = payload;
  view->body_ = body;
  view->k_bytes_ = k_bytes;
  view->v_bytes_ = v_bytes;
  return FrameError::kOk;
}

FrameError DecodeAck(std::span<const std::byte> payload, AckBody* ack) {
  TRIBUTARY_RETURN_IF_FRAME_ERROR(ReadBody(payload, ack));
  if (!IsFrameError(ack->status)) return FrameError::kMalformed;
  if (!IsTokenRange(ack->token_begin, ack->num_tokens) || ack->stored_tokens > limits::kMaxContextTokens) {
    return FrameError::kOutOfRange;
  }
  return CheckExactSize(payload.size(), sizeof(AckBody));
}

FrameError DecodeError(std::span<const std::byte> payload, ErrorBody* error, std::string_view* text) {
  TRIBUTARY_RETURN_IF_FRAME_ERROR(ReadBody(payload, error));
  if (!IsFrameError(error->error) || error->error == static_cast<uint32_t>(FrameError::kOk) || error->reserved != 0) {
    return FrameError::kMalformed;
  }
  if (error->text_bytes > limits::kMaxErrorTextBytes) return FrameError::kBadSize;
  TRIBUTARY_RETURN_IF_FRAME_ERROR(CheckExactSize(payload.size(), sizeof(ErrorBody) + error->text_bytes));
  *text = {reinterpret_cast<const char*>(payload.data()) + sizeof(ErrorBody), error->text_bytes};
  return FrameError::kOk;
}

FrameError DecodeHeartbeat(std::span<const std::byte> payload, HeartbeatBody* heartbeat) {
  TRIBUTARY_RETURN_IF_FRAME_ERROR(ReadBody(payload, heartbeat));
  if (heartbeat->is_reply > 1 || heartbeat->reserved != 0) return FrameError::kMalformed;
  return CheckExactSize(payload.size(), sizeof(HeartbeatBody));
}

}  // namespace tributary
