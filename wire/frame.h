// The data-plane frames, byte for byte (docs/wire_format.md). Little-endian, packed, no padding.
//
// A frame is a 64-byte FrameHeader and a payload:
//   query      QueryBody, QueryEntry[n], per entry:
//                q f32 [n_q][num_q_heads][head_dim], dense heads, policy section
//   partial    PartialBody, PartialEntry[n], per entry:
//                out f32 [n_q][num_q_heads][head_dim], lse_ln f32 [n_q][num_q_heads];
//                if measured: sample_out and sample_lse_ln like these, attended_tokens u32 [num_kv_heads],
//                sampled_tokens u32 [num_kv_heads];
//                policy section
//   spill      SpillBody, K [token][kv_head][head_dim], V the same (canonical exchange layout), policy section
//   ack        AckBody
//   error      ErrorBody, text
//   heartbeat  HeartbeatBody
// One query frame carries all sequences of the batch that have shards on the node; never one
// message per head.
//
// Dense heads are KV heads that the query wants to be answered by everything, whatever the policy reads: a bit for each
// KV head of the shard, 32 in a u32, the lowest first. They are there if kQueryDenseHeads says so, DenseHeadWords() u32
// behind q.
//
// A policy section is `policy_bytes` bytes that only the sequence's policy reads; 0: there is none. It begins at the
// next multiple of 8 behind what stands before it.
//
// The data of a query's or partial's entries lie behind the entry table, one entry's directly behind the other's, and
// the last ones end the payload, so a frame never asks for more work than its bytes. Each entry's data begin at a
// multiple of 8 and are filled up to one. What fills up is 0, as reserved fields and flags are. wire/frame_builder.h
// writes payloads in this layout.
//
// Decoders are pure: they look at a byte span, allocate nothing, check every field (against
// base/limits.h and the span's size) before using it, and return a FrameError. Payloads need no
// alignment. They are fuzzed (tests/fuzz).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

#include "attention/partial.h"
#include "attention/token_range.h"
#include "base/dtype.h"
#include "base/ids.h"

namespace tributary {

static_assert(std::endian::native == std::endian::little, "frames are little-endian");

inline constexpr uint32_t kFrameMagic = 0x31425254;  // "TRB1"
inline constexpr uint8_t kFrameVersion = 4;

enum class FrameType : uint8_t { kQuery = 1, kPartial = 2, kSpill = 3, kAck = 4, kError = 5, kHeartbeat = 6 };

// Why a frame, or one entry of it, was refused. On the wire: never renumber. Names label metrics.
enum class FrameError : uint32_t {
  kOk = 0,
  kTruncated = 1,  // shorter than its fields say
  kBadMagic = 2,
  kBadVersion = 3,
  kBadType = 4,
  kBadSize = 5,  // a count or size beyond base/limits.h, or payload_bytes that disagrees with the payload
  kBadAuthTag = 6,
  kUnknownSession = 7,
  kStaleEpoch = 8,  // the placement has moved on
  kReplayed = 9,    // frame_seq seen before, or too old to tell
  kUnknownShard = 10,
  kBadGeometry = 11,   // heads, head_dim or dtype differ from the shard's
  kNotStored = 12,     // visible range beyond what the shard holds
  kOutOfRange = 13,    // tokens or layer outside the shard
  kExhausted = 14,     // reserved memory is used up
  kMalformed = 15,     // a value that no correct sender writes: reserved bits, an unknown enum, a
                       // scale that is not finite
  kBadPayload = 16,    // changed on the way: not the payload that its header was made for
  kNotGranted = 17,    // the shard is another worker's
  kOtherContent = 18,  // a spill of tokens that are stored already, and are not the same
  kCorruptKv = 19,     // stored K or V no longer has the bytes that were stored
};
inline constexpr uint32_t kNumFrameErrors = 20;
// Lower-case words with underscores ("bad_auth_tag"); "unknown" for a value that is no FrameError.
std::string_view FrameErrorName(FrameError error);

using PayloadTag = std::array<uint32_t, 3>;

struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint8_t version = kFrameVersion;
  uint8_t type = 0;
  uint16_t flags = 0;       // none defined: must be 0
  uint64_t session_id = 0;  // random; dies with either process
  uint64_t frame_seq = 0;   // rises with each frame of one direction of a session (wire/replay_window.h)
  uint64_t step_id = 0;     // of a spill: the sender's free choice. An answer repeats it
  uint16_t layer = 0;
  uint16_t slot = 0;  // sender's free choice; an answer repeats it
  uint32_t payload_bytes = 0;
  uint32_t timeout_us = 0;   // time left when sent; 0 = none
  PayloadTag payload_tag{};  // wire/frame_seal.h: a CRC-32C and zeros, or a MAC
  uint64_t auth_tag = 0;     // SipHash-2-4 of the header with this field 0, under the session's key
};
static_assert(sizeof(FrameHeader) == 64 && std::is_trivially_copyable_v<FrameHeader>);
static_assert(offsetof(FrameHeader, session_id) == 8 && offsetof(FrameHeader, step_id) == 24);
static_assert(offsetof(FrameHeader, payload_bytes) == 36 && offsetof(FrameHeader, payload_tag) == 44);
static_assert(offsetof(FrameHeader, auth_tag) == 56);

inline constexpr size_t kFrameHeaderBytes = sizeof(FrameHeader);

// What `bytes` of an entry's data, or of a policy section within them, take up.
constexpr uint64_t PaddedBytes(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

struct QueryBody {
  uint32_t num_entries = 0;
  float softmax_scale = 0;
  uint32_t head_dim = 0;
  float soft_cap = 0;  // 0: none; else in [limits::kMinSoftCap, limits::kMaxSoftCap]
};
static_assert(sizeof(QueryBody) == 16);

// QueryEntry::flags. kMeasure and kDenseHeads exclude kAppend; kAppendEnd comes with kAppend only.
inline constexpr uint32_t kQueryMeasure = 1;    // attend twice, once to everything, and report both
inline constexpr uint32_t kQueryAppend = 2;     // of an appended prompt: attends to everything, and its weights count
                                                // towards the new selection
inline constexpr uint32_t kQueryAppendEnd = 4;  // the last query of that prompt: the node selects anew
inline constexpr uint32_t kQueryDenseHeads =
    8;  // some KV heads are to be answered by everything: behind q it says which
inline constexpr uint32_t kQueryFlags = kQueryMeasure | kQueryAppend | kQueryAppendEnd | kQueryDenseHeads;

// Words of a query's dense heads. Of its KV heads only the receiver knows the number; there are no more than query
// heads.
constexpr uint32_t DenseHeadWords(uint32_t num_q_heads) { return (num_q_heads + 31) / 32; }

struct QueryEntry {
  uint64_t shard_id = 0;
  uint64_t sequence_epoch = 0;
  uint64_t visible_begin = 0;  // the shard answers for its tokens in [visible_begin, visible_end)
  uint64_t visible_end = 0;
  uint32_t num_q_heads = 0;     // of the shard's KV heads: group_size * num_kv_heads
  uint32_t n_q = 0;             // query tokens, all attending to the whole visible range
  uint32_t q_offset_bytes = 0;  // from the start of the payload
  uint32_t flags = 0;           // kQuery...
  uint32_t policy_bytes = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(QueryEntry) == 56);

struct PartialBody {
  uint32_t num_entries = 0;
  uint32_t head_dim = 0;
  uint64_t queue_ns = 0;    // from receipt to start of the work
  uint64_t compute_ns = 0;  // attention, merges included
};
static_assert(sizeof(PartialBody) == 24);

// PartialEntry::flags.
inline constexpr uint32_t kPartialMeasured = 1;

struct PartialEntry {
  uint64_t shard_id = 0;
  // FrameError; unless kOk there is no data. If kCorruptKv, num_kv_heads says which KV head of those held it is that is
  // corrupt, and covered_tokens which tile.
  uint32_t status = 0;
  uint32_t num_q_heads = 0;
  uint64_t covered_tokens = 0;
  // Sum over the KV heads of the tokens that out rests on; covered_tokens * num_kv_heads when dense. What was read to
  // measure is not counted.
  uint64_t attended_head_tokens = 0;
  uint32_t n_q = 0;
  uint32_t data_offset_bytes = 0;  // from the start of the payload: out, lse_ln, what was measured, policy section
  uint32_t flags = 0;              // kPartial...
  uint32_t num_kv_heads = 0;
  uint32_t policy_bytes = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(PartialEntry) == 56);

struct SpillBody {
  uint64_t shard_id = 0;
  uint64_t sequence_epoch = 0;
  uint64_t token_begin = 0;  // absolute; [token_begin, token_begin + num_tokens) lies in one run of the shard's stripe
  uint32_t num_tokens = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint8_t k_dtype = 0;
  uint8_t v_dtype = 0;
  uint16_t reserved = 0;
  uint32_t policy_bytes = 0;
  uint32_t reserved_end = 0;
};
static_assert(sizeof(SpillBody) == 48 && offsetof(SpillBody, policy_bytes) == 40);

struct AckBody {
  uint64_t shard_id = 0;
  uint64_t token_begin = 0;
  uint32_t num_tokens = 0;
  uint32_t status = 0;         // FrameError
  uint64_t stored_tokens = 0;  // of this layer, without gaps, in stripe-local count
};
static_assert(sizeof(AckBody) == 32);

struct ErrorBody {
  uint32_t error = 0;  // FrameError
  uint32_t rejected_type = 0;
  uint64_t rejected_frame_seq = 0;
  uint32_t text_bytes = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(ErrorBody) == 24);

struct HeartbeatBody {
  uint64_t sent_ns = 0;  // sender's clock; an answer repeats it
  uint32_t is_reply = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(HeartbeatBody) == 16);

// Checks everything that needs no session: size, magic, version, type, payload_bytes == payload
// size and within limits. Tags are for wire/frame_seal.h.
FrameError DecodeHeader(std::span<const std::byte> header_bytes, size_t payload_size, FrameHeader* header);
// Reads a packed struct at an offset that the decoder has proved to be inside the payload.
template <typename T>
T ReadAt(std::span<const std::byte> payload, size_t offset_bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, payload.data() + offset_bytes, sizeof(T));
  return value;
}

// Bytes of an entry's q and dense heads, without its policy section.
constexpr uint64_t QueryBytes(const QueryEntry& entry, uint32_t head_dim) {
  const uint64_t bytes = uint64_t{entry.n_q} * entry.num_q_heads * head_dim * sizeof(float);
  if ((entry.flags & kQueryDenseHeads) == 0) return bytes;
  return bytes + uint64_t{DenseHeadWords(entry.num_q_heads)} * sizeof(uint32_t);
}

// A checked query payload: at least one entry; entry(i) and the q bytes of each entry are inside
// the payload; visible ranges are well-formed and end at most at kMaxContextTokens; flags go
// together. Shard, epoch and heads are for the receiver to check.
class QueryView {
 public:
  static FrameError Decode(std::span<const std::byte> payload, QueryView* view);
  const QueryBody& body() const { return body_; }
  QueryEntry entry(uint32_t i) const {
    return ReadAt<QueryEntry>(payload_, sizeof(QueryBody) + i * sizeof(QueryEntry));
  }
  // f32 [n_q][num_q_heads][head_dim], unaligned.
  std::span<const std::byte> q(const QueryEntry& entry) const {
    return payload_.subspan(entry.q_offset_bytes, QBytes(entry));
  }
  // u32 [DenseHeadWords()], unaligned; empty: no head is named.
  std::span<const std::byte> dense_heads(const QueryEntry& entry) const {
    const size_t q_bytes = QBytes(entry);
    return payload_.subspan(entry.q_offset_bytes + q_bytes, QueryBytes(entry, body_.head_dim) - q_bytes);
  }
  // The policy section, unaligned.
  std::span<const std::byte> policy(const QueryEntry& entry) const {
    return payload_.subspan(entry.q_offset_bytes + PaddedBytes(QueryBytes(entry, body_.head_dim)), entry.policy_bytes);
  }

 private:
  size_t QBytes(const QueryEntry& entry) const {
    return size_t{entry.n_q} * entry.num_q_heads * body_.head_dim * sizeof(float);
  }

  std::span<const std::byte> payload_;
  QueryBody body_;
};

// Bytes of an entry's partial, and of what was measured, without its policy section.
constexpr uint64_t PartialBytes(const PartialEntry& entry, uint32_t head_dim) {
  const uint64_t rows = uint64_t{entry.n_q} * entry.num_q_heads;
  const uint64_t bytes = rows * (uint64_t{head_dim} + 1) * sizeof(float);
  if ((entry.flags & kPartialMeasured) == 0) return bytes;
  return 2 * bytes + uint64_t{entry.num_kv_heads} * 2 * sizeof(uint32_t);
}

// A checked partial payload: at least one entry, each with a known status. Of entries with status
// kOk the data are inside the payload, the KV heads divide the query heads, and no more was attended
// than covered; of each KV head of a measured one, either attention is over everything covered. Other entries have no
// data: all spans are empty.
class PartialFrameView {
 public:
  static FrameError Decode(std::span<const std::byte> payload, PartialFrameView* view);
  const PartialBody& body() const { return body_; }
  PartialEntry entry(uint32_t i) const {
    return ReadAt<PartialEntry>(payload_, sizeof(PartialBody) + i * sizeof(PartialEntry));
  }
  // f32 [n_q][num_q_heads][head_dim], unaligned.
  std::span<const std::byte> out(const PartialEntry& entry) const {
    return Data(entry, 0, size_t{body_.head_dim} * RowBytes(entry));
  }
  // f32 [n_q][num_q_heads], unaligned.
  std::span<const std::byte> lse_ln(const PartialEntry& entry) const {
    return Data(entry, size_t{body_.head_dim} * RowBytes(entry), RowBytes(entry));
  }
  // The sample of a measured entry: as out and lse_ln. Of each KV head, one of both is over everything covered, and the
  // other over what the policy selects; they are the same where nothing is left out.
  std::span<const std::byte> sample_out(const PartialEntry& entry) const {
    return Measured(entry, 0, size_t{body_.head_dim} * RowBytes(entry));
  }
  std::span<const std::byte> sample_lse_ln(const PartialEntry& entry) const {
    return Measured(entry, size_t{body_.head_dim} * RowBytes(entry), RowBytes(entry));
  }
  // Tokens that out rests on, per KV head; u32 [num_kv_heads], unaligned. Empty unless measured.
  std::span<const std::byte> attended_tokens(const PartialEntry& entry) const {
    return Measured(entry, PartialRowsBytes(entry), KvHeadsBytes(entry));
  }
  // Likewise, those that sample_out rests on.
  std::span<const std::byte> sampled_tokens(const PartialEntry& entry) const {
    return Measured(entry, PartialRowsBytes(entry) + KvHeadsBytes(entry), KvHeadsBytes(entry));
  }
  // The policy section, unaligned.
  std::span<const std::byte> policy(const PartialEntry& entry) const {
    return Data(entry, PaddedBytes(PartialBytes(entry, body_.head_dim)), entry.policy_bytes);
  }

 private:
  static size_t RowBytes(const PartialEntry& entry) { return size_t{entry.n_q} * entry.num_q_heads * sizeof(float); }
  static size_t KvHeadsBytes(const PartialEntry& entry) { return size_t{entry.num_kv_heads} * sizeof(uint32_t); }
  size_t PartialRowsBytes(const PartialEntry& entry) const { return (size_t{body_.head_dim} + 1) * RowBytes(entry); }
  // Behind out and lse_ln.
  std::span<const std::byte> Measured(const PartialEntry& entry, size_t begin, size_t bytes) const {
    if ((entry.flags & kPartialMeasured) == 0) return {};
    return Data(entry, PartialRowsBytes(entry) + begin, bytes);
  }
  std::span<const std::byte> Data(const PartialEntry& entry, size_t begin, size_t bytes) const {
    if (entry.status != static_cast<uint32_t>(FrameError::kOk)) return {};
    return payload_.subspan(entry.data_offset_bytes + begin, bytes);
  }

  std::span<const std::byte> payload_;
  PartialBody body_;
};

// A checked spill payload: sizes agree with the payload, dtypes are known, tokens end at most at
// kMaxContextTokens.
class SpillView {
 public:
  static FrameError Decode(std::span<const std::byte> payload, SpillView* view);
  const SpillBody& body() const { return body_; }
  std::span<const std::byte> k() const { return payload_.subspan(sizeof(SpillBody), k_bytes_); }
  std::span<const std::byte> v() const { return payload_.subspan(sizeof(SpillBody) + k_bytes_, v_bytes_); }
  // The policy section, unaligned.
  std::span<const std::byte> policy() const { return payload_.last(body_.policy_bytes); }

 private:
  std::span<const std::byte> payload_;
  SpillBody body_;
  size_t k_bytes_ = 0;
  size_t v_bytes_ = 0;
};

// Each also checks that the payload has exactly the size that its fields say. `text` borrows the
// payload.
FrameError DecodeAck(std::span<const std::byte> payload, AckBody* ack);
FrameError DecodeError(std::span<const std::byte> payload, ErrorBody* error, std::string_view* text);
FrameError DecodeHeartbeat(std::span<const std::byte> payload, HeartbeatBody* heartbeat);

}  // namespace tributary
