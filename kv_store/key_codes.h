// Coarse codes of a shard's keys (attention/kv/key_code_layout.h), record by record as tiles fill: a few bits per dim
// that a policy scans in full to find single tokens. 2 bits of a key of 128 dims are 7.6 % of its K and V in bf16,
// with means and scales.
//
// Nothing is fitted to other data, to what was stored before, or to what a query asks for: a record's codes follow from
// its own 64 keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/key_code_layout.h"
#include "kv_store/block_summaries.h"
#include "kv_store/stream_records.h"

namespace tributary {

struct KeyCodeOptions {
  uint32_t bits = 2;  // 1, 2 or 4

  friend bool operator==(const KeyCodeOptions&, const KeyCodeOptions&) = default;
};

// The records are reserved by Open, in extents of the pool of the shards. Thread-compatible; concurrent reads are safe
// while nobody adds.
class KeyCodes {
 public:
  // INVALID_ARGUMENT (bits, geometry, a record larger than an extent), RESOURCE_EXHAUSTED (needed and free bytes).
  static absl::StatusOr<KeyCodes> Open(const KeyCodeOptions& options, const SummarisedKeys& keys, BlockPool* pool);
  // Bytes that Open would reserve from a pool with such extents. INVALID_ARGUMENT as of Open.
  static absl::StatusOr<uint64_t> ReservedBytes(const KeyCodeOptions& options, const SummarisedKeys& keys,
                                                size_t extent_bytes);

  // The next 64 keys of the stream: row i at keys + i * head_dim, post-RoPE. REQUIRES (checked): room, stream <
  // num_streams.
  void Add(uint64_t stream, const float* keys);

  const KeyCodeOptions& options() const { return options_; }
  const KeyCodeLayout& layout() const { return layout_; }
  // That have codes, from 0 on: a multiple of 64.
  uint64_t num_tokens(uint64_t stream) const { return num_records_[stream] * kKeyCodeRecordTokens; }
  uint64_t reserved_bytes() const { return records_.reserved_bytes(); }

  // Tokens [token_begin, x) with x <= token_end whose records lie one behind the other.
  // REQUIRES (checked): both multiples of 64, token_begin < token_end <= num_tokens(stream).
  struct Run {
    const std::byte* records = nullptr;  // aligned to 64
    uint64_t num_tokens = 0;
  };
  Run RunAt(uint64_t stream, uint64_t token_begin, uint64_t token_end) const;

 private:
  KeyCodes(const KeyCodeOptions& options, const SummarisedKeys& keys, StreamRecords records);

  KeyCodeOptions options_;
  KeyCodeLayout layout_;
  StreamRecords records_;
  std::vector<uint64_t> num_records_;  // [stream]
};

// Writes the record of 64 keys, [64][head_dim]. Pure.
void EncodeKeyRecord(const KeyCodeLayout& layout, const float* keys, std::byte* record);
// What the codes of one token say that its key is, rotated: [head_dim] values. NaN: its key is not finite.
void DecodeKeyCodes(const KeyCodeLayout& layout, const std::byte* record, uint32_t token, float* rotated);

}  // namespace tributary
