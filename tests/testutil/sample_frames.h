// Random valid frames of every type, and a decoder that looks at everything a receiver would: for
// tests and fuzzing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <random>
#include <vector>

#include "policy/hgca/spill_section.h"
#include "tests/testutil/test_seed.h"
#include "wire/frame.h"
#include "wire/frame_builder.h"
#include "wire/frame_seal.h"

namespace tributary {

struct SampleFrame {
  FrameHeader header;
  std::vector<std::byte> payload;
};

inline constexpr SipKey kSampleKey = {0x1122334455667788u, 0x99aabbccddeeff00u};

// Of a policy section: half of them are empty.
inline uint32_t SampleSectionBytes(std::mt19937_64& random) {
  return RandomInt(random, 0, 1) == 0 ? 0 : RandomInt(random, 1u, 40u);
}

inline std::vector<std::byte> SampleQueryPayload(std::mt19937_64& random) {
  const uint32_t head_dim = RandomInt(random, 1u, 8u);
  std::vector<QueryEntry> entries(RandomInt<size_t>(random, 1, 4));
  for (QueryEntry& entry : entries) {
    entry.shard_id = RandomInt<uint64_t>(random, 0, 3);
    entry.sequence_epoch = random();
    entry.visible_begin = RandomInt<uint64_t>(random, 0, 100);
    entry.visible_end = RandomInt<uint64_t>(random, entry.visible_begin, 200);
    entry.num_q_heads = RandomInt(random, 1u, 4u);
    entry.n_q = RandomInt(random, 1u, 2u);
    constexpr uint32_t kFlags[] = {0,
                                   kQueryMeasure,
                                   kQueryDenseHeads,
                                   kQueryMeasure | kQueryDenseHeads,
                                   kQueryAppend,
                                   kQueryAppend | kQueryAppendEnd};
    entry.flags = kFlags[RandomInt<size_t>(random, 0, std::size(kFlags) - 1)];
    entry.policy_bytes = SampleSectionBytes(random);
  }
  std::vector<std::byte> payload(QueryPayloadBytes(entries, head_dim));
  QueryPayloadWriter writer(payload, static_cast<uint32_t>(entries.size()), head_dim, 0.125f);
  for (const QueryEntry& entry : entries) {
    const QuerySpans spans = writer.Add(entry);
    for (float& x : spans.q) x = static_cast<float>(RandomInt(random, -8, 8));
    for (uint32_t& word : spans.dense_heads) word = static_cast<uint32_t>(random());
    for (std::byte& b : spans.policy) b = static_cast<std::byte>(random());
  }
  return payload;
}

inline std::vector<std::byte> SamplePartialPayload(std::mt19937_64& random) {
  const uint32_t head_dim = RandomInt(random, 1u, 8u);
  std::vector<PartialEntry> entries(RandomInt<size_t>(random, 1, 4));
  for (PartialEntry& entry : entries) {
    entry.shard_id = random();
    entry.status = RandomInt(random, 0, 3) == 0 ? RandomInt(random, 1u, kNumFrameErrors - 1) : 0u;
    entry.num_kv_heads = RandomInt(random, 1u, 2u);
    entry.num_q_heads = entry.num_kv_heads * RandomInt(random, 1u, 2u);
    entry.covered_tokens = RandomInt<uint64_t>(random, 0, 1000);
    entry.attended_head_tokens = entry.covered_tokens / 2 * entry.num_kv_heads;
    entry.n_q = RandomInt(random, 1u, 2u);
    entry.flags = RandomInt(random, 0, 1) == 0 ? kPartialMeasured : 0;
    entry.policy_bytes = SampleSectionBytes(random);
  }
  std::vector<std::byte> payload(PartialPayloadBytes(entries, head_dim));
  PartialPayloadWriter writer(payload, static_cast<uint32_t>(entries.size()), head_dim);
  for (const PartialEntry& entry : entries) {
    const PartialSpans spans = writer.Add(entry);
    for (const std::span<float> floats : {spans.out, spans.lse_ln, spans.sample.out, spans.sample.lse_ln}) {
      for (float& x : floats) x = static_cast<float>(RandomInt(random, -8, 8));
    }
    for (uint32_t& tokens : spans.attended_tokens) {
      tokens = static_cast<uint32_t>(entry.covered_tokens / 2);
    }
    for (uint32_t& tokens : spans.sampled_tokens) tokens = static_cast<uint32_t>(entry.covered_tokens);
    for (std::byte& b : spans.policy) b = static_cast<std::byte>(random());
  }
  writer.SetTimes(random() % 1000, random() % 1000);
  return payload;
}

inline std::vector<std::byte> SampleSpillPayload(std::mt19937_64& random) {
  SpillBody body;
  body.shard_id = RandomInt<uint64_t>(random, 0, 3);
  body.sequence_epoch = random();
  body.token_begin = RandomInt<uint64_t>(random, 0, 100);
  body.num_tokens = RandomInt(random, 1u, 8u);
  body.num_kv_heads = RandomInt(random, 1u, 3u);
  body.head_dim = RandomInt(random, 1u, 8u);
  body.k_dtype = static_cast<uint8_t>(RandomInt(random, 1, 3));
  body.v_dtype = static_cast<uint8_t>(RandomInt(random, 1, 3));
  const bool is_hgca = RandomInt(random, 0, 2) == 0;
  body.policy_bytes = is_hgca ? static_cast<uint32_t>(HgcaSpillSectionBytes(body.num_tokens, body.num_kv_heads))
                              : SampleSectionBytes(random);
  std::vector<std::byte> payload(SpillPayloadBytes(body));
  const SpillSpans spans = WriteSpill(body, payload);
  for (std::byte& b : spans.k) b = static_cast<std::byte>(random());
  for (std::byte& b : spans.v) b = static_cast<std::byte>(random());
  for (std::byte& b : spans.policy) b = static_cast<std::byte>(random());
  if (is_hgca) BeginHgcaSpillSection(RandomInt(random, 1u, 5000u), spans.policy);
  return payload;
}

inline SampleFrame MakeSampleFrame(std::mt19937_64& random, FrameType type) {
  SampleFrame frame;
  switch (type) {
    case FrameType::kQuery:
      frame.payload = SampleQueryPayload(random);
      break;
    case FrameType::kPartial:
      frame.payload = SamplePartialPayload(random);
      break;
    case FrameType::kSpill:
      frame.payload = SampleSpillPayload(random);
      break;
    case FrameType::kAck:
      frame.payload.resize(kAckPayloadBytes);
      WriteAck({.shard_id = random(), .token_begin = 64, .num_tokens = 16, .status = 0, .stored_tokens = 80},
               frame.payload);
      break;
    case FrameType::kError: {
      const std::string text(RandomInt<size_t>(random, 0, 40), 'x');
      frame.payload.resize(ErrorPayloadBytes(text));
      WriteError({.error = static_cast<uint32_t>(FrameError::kStaleEpoch),
                  .rejected_type = static_cast<uint32_t>(FrameType::kQuery),
                  .rejected_frame_seq = random()},
                 text, frame.payload);
      break;
    }
    case FrameType::kHeartbeat:
      frame.payload.resize(kHeartbeatPayloadBytes);
      WriteHeartbeat({.sent_ns = random(), .is_reply = RandomInt(random, 0u, 1u)}, frame.payload);
      break;
  }
  frame.header.type = static_cast<uint8_t>(type);
  frame.header.session_id = random();
  frame.header.frame_seq = random();
  frame.header.step_id = random();
  frame.header.layer = RandomInt<uint16_t>(random, 0, 31);
  frame.header.slot = RandomInt<uint16_t>(random, 0, 7);
  frame.header.timeout_us = static_cast<uint32_t>(random());
  SealFrame(kSampleKey, frame.header, frame.payload);
  return frame;
}

// Sums all bytes, so that a sanitizer sees every read that a view allows.
inline uint64_t TouchBytes(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (std::byte b : bytes) sum = sum * 31 + static_cast<uint64_t>(b);
  return sum;
}

// Decodes a payload of the type and reads all that its view offers. `digest` gets a hash of what
// was read.
inline FrameError DecodePayload(FrameType type, std::span<const std::byte> payload, uint64_t* digest) {
  *digest = 0;
  FrameError error = FrameError::kBadType;
  switch (type) {
    case FrameType::kQuery: {
      QueryView view;
      error = QueryView::Decode(payload, &view);
      for (uint32_t i = 0; error == FrameError::kOk && i < view.body().num_entries; ++i) {
        const QueryEntry entry = view.entry(i);
        *digest += TouchBytes(view.q(entry)) + TouchBytes(view.dense_heads(entry)) + TouchBytes(view.policy(entry));
      }
      break;
    }
    case FrameType::kPartial: {
      PartialFrameView view;
      error = PartialFrameView::Decode(payload, &view);
      for (uint32_t i = 0; error == FrameError::kOk && i < view.body().num_entries; ++i) {
        const PartialEntry entry = view.entry(i);
        for (const std::span<const std::byte> part :
             {view.out(entry), view.lse_ln(entry), view.sample_out(entry), view.sample_lse_ln(entry),
              view.attended_tokens(entry), view.sampled_tokens(entry), view.policy(entry)}) {
          *digest += TouchBytes(part);
        }
      }
      break;
    }
    case FrameType::kSpill: {
      SpillView view;
      error = SpillView::Decode(payload, &view);
      if (error == FrameError::kOk) {
        *digest = TouchBytes(view.k()) + TouchBytes(view.v()) + TouchBytes(view.policy());
      }
      break;
    }
    case FrameType::kAck: {
      AckBody ack;
      error = DecodeAck(payload, &ack);
      break;
    }
    case FrameType::kError: {
      ErrorBody body;
      std::string_view text;
      error = DecodeError(payload, &body, &text);
      if (error == FrameError::kOk) *digest = TouchBytes(std::as_bytes(std::span(text)));
      break;
    }
    case FrameType::kHeartbeat: {
      HeartbeatBody heartbeat;
      error = DecodeHeartbeat(payload, &heartbeat);
      break;
    }
  }
  return error;
}

inline constexpr FrameType kAllFrameTypes[] = {FrameType::kQuery, FrameType::kPartial, FrameType::kSpill,
                                               FrameType::kAck,   FrameType::kError,   FrameType::kHeartbeat};

}  // namespace tributary
