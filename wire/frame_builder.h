// Lays out frame payloads (wire/frame.h) in memory that the caller owns, usually a
// FrameBuffer. Nothing is allocated.
//
// Usage, for a query:
//   size_t bytes = QueryPayloadBytes(entries, head_dim);          // then allocate
//   QueryPayloadWriter writer(payload, entries.size(), head_dim, softmax_scale);
//   for (const QueryEntry& entry : entries) Fill(writer.Add(entry).q);
//
// REQUIRES, everywhere and checked: `payload` has exactly the size that the *PayloadBytes function
// gives, and starts at a multiple of 8. Results beyond limits::kMaxFramePayloadBytes are for the
// caller to refuse (AllocateFrame does).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "attention/partial.h"
#include "wire/frame.h"

namespace tributary {

// What one entry adds to a payload: the entry itself, its data and its policy section.
size_t QueryEntryBytes(const QueryEntry& entry, uint32_t head_dim);
size_t PartialEntryBytes(const PartialEntry& entry,
                         uint32_t head_dim);  // no data unless status is kOk

size_t QueryPayloadBytes(std::span<const QueryEntry> entries, uint32_t head_dim);
size_t PartialPayloadBytes(std::span<const PartialEntry> entries, uint32_t head_dim);

// The data of one query entry, to be filled by the caller.
struct QuerySpans {
  std::span<float> q;               // [n_q][num_q_heads][head_dim]
  std::span<uint32_t> dense_heads;  // [DenseHeadWords()]; empty unless the entry's flags have kQueryDenseHeads
  std::span<std::byte> policy;      // policy_bytes, at a multiple of 8
};

// Writes the body at once and then entry by entry. The payload is complete after `num_entries`
// calls of Add().
class QueryPayloadWriter {
 public:
  QueryPayloadWriter(std::span<std::byte> payload, uint32_t num_entries, uint32_t head_dim, float softmax_scale,
                     float soft_cap = 0);

  // Writes the entry with its q_offset_bytes (the given one is ignored) and returns its data.
  QuerySpans Add(QueryEntry entry);
  bool complete() const { return num_added_ == num_entries_ && next_data_ == payload_.size(); }

 private:
  std::span<std::byte> payload_;
  uint32_t num_entries_;
  uint32_t head_dim_;
  uint32_t num_added_ = 0;
  size_t next_data_;
};

// The data of one partial entry, to be filled by the caller. All empty unless the status is kOk.
struct PartialSpans : AttentionPartialView {  // out [n_q][num_q_heads][head_dim], lse_ln [n_q][num_q_heads]
  // Empty unless the entry is measured.
  AttentionPartialView sample;          // as this
  std::span<uint32_t> attended_tokens;  // [num_kv_heads]
  std::span<uint32_t> sampled_tokens;   // [num_kv_heads]
  std::span<std::byte> policy;          // policy_bytes, at a multiple of 8
};

class PartialPayloadWriter {
 public:
  PartialPayloadWriter(std::span<std::byte> payload, uint32_t num_entries, uint32_t head_dim);

  // Writes the entry with its data_offset_bytes (the given one is ignored) and returns its data.
  PartialSpans Add(PartialEntry entry);
  // Rewrites entry i, for what is known only after the work. REQUIRES: added before.
  void SetCoverage(uint32_t i, Coverage coverage);
  // Times go in last.
  void SetTimes(uint64_t queue_ns, uint64_t compute_ns);
  bool complete() const { return num_added_ == num_entries_ && next_data_ == payload_.size(); }

 private:
  std::span<std::byte> payload_;
  uint32_t num_entries_;
  uint32_t head_dim_;
  uint32_t num_added_ = 0;
  size_t next_data_;
};

struct SpillSpans {
  std::span<std::byte> k;  // [token][kv_head][head_dim], to be filled by the caller
  std::span<std::byte> v;
  std::span<std::byte> policy;  // policy_bytes, at a multiple of 8
};
// REQUIRES: valid dtypes in `body`.
size_t SpillPayloadBytes(const SpillBody& body);
SpillSpans WriteSpill(const SpillBody& body, std::span<std::byte> payload);

inline constexpr size_t kAckPayloadBytes = sizeof(AckBody);
void WriteAck(const AckBody& ack, std::span<std::byte> payload);

// The text is cut at limits::kMaxErrorTextBytes; error.text_bytes is filled in.
size_t ErrorPayloadBytes(std::string_view text);
void WriteError(ErrorBody error, std::string_view text, std::span<std::byte> payload);

inline constexpr size_t kHeartbeatPayloadBytes = sizeof(HeartbeatBody);
void WriteHeartbeat(const HeartbeatBody& heartbeat, std::span<std::byte> payload);

}  // namespace tributary
