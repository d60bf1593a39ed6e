#include "wire/frame.h"

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "base/limits.h"
#include "gtest/gtest.h"
#include "tests/testutil/sample_frames.h"
#include "wire/frame_builder.h"

namespace tributary {
namespace {

std::span<const std::byte> BytesOf(const FrameHeader& header) { return std::as_bytes(std::span(&header, 1)); }

template <typename T>
void Overwrite(std::vector<std::byte>& payload, size_t offset, T value) {
  ASSERT_LE(offset + sizeof(T), payload.size());
  std::memcpy(payload.data() + offset, &value, sizeof(T));
}

class FrameTest : public testing::Test {
 protected:
  const uint64_t seed_ = TestSeed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
};

TEST_F(FrameTest, ValidFramesOfEveryTypeDecode) {
  for (int round = 0; round < 50; ++round) {
    for (FrameType type : kAllFrameTypes) {
      const SampleFrame frame = MakeSampleFrame(random_, type);
      FrameHeader header;
      ASSERT_EQ(DecodeHeader(BytesOf(frame.header), frame.payload.size(), &header), FrameError::kOk);
      ASSERT_EQ(std::memcmp(&header, &frame.header, sizeof(header)), 0);
      ASSERT_TRUE(VerifyHeader(kSampleKey, header));
      ASSERT_TRUE(VerifyPayload(header, frame.payload));
      uint64_t digest;
      ASSERT_EQ(DecodePayload(type, frame.payload, &digest), FrameError::kOk);
    }
  }
}

TEST_F(FrameTest, EveryTruncationIsRefused) {
  for (int round = 0; round < 5; ++round) {
    for (FrameType type : kAllFrameTypes) {
      const SampleFrame frame = MakeSampleFrame(random_, type);
      for (size_t size = 0; size < frame.payload.size(); ++size) {
        // A copy of exactly this size: a read past its end is a heap overflow.
        const std::vector<std::byte> cut(frame.payload.begin(), frame.payload.begin() + static_cast<ptrdiff_t>(size));
        uint64_t digest;
        ASSERT_EQ(DecodePayload(type, cut, &digest), FrameError::kTruncated)
            << "type " << int(type) << " size " << size;
      }
      std::vector<std::byte> longer = frame.payload;
      longer.push_back(std::byte{0});
      uint64_t digest;
      ASSERT_EQ(DecodePayload(type, longer, &digest), FrameError::kBadSize) << "type " << int(type);
    }
  }
}

TEST_F(FrameTest, HeaderErrors) {
  const SampleFrame frame = MakeSampleFrame(random_, FrameType::kQuery);
  const size_t size = frame.payload.size();
  FrameHeader out;
  const auto decode = [&](auto spoil) {
    FrameHeader header = frame.header;
    spoil(header);
    return DecodeHeader(BytesOf(header), size, &out);
  };
  EXPECT_EQ(decode([](FrameHeader& h) { h.magic ^= 1; }), FrameError::kBadMagic);
  EXPECT_EQ(decode([](FrameHeader& h) { h.version = 1; }), FrameError::kBadVersion);
  EXPECT_EQ(decode([](FrameHeader& h) { h.type = 0; }), FrameError::kBadType);
  EXPECT_EQ(decode([](FrameHeader& h) { h.type = 7; }), FrameError::kBadType);
  EXPECT_EQ(decode([](FrameHeader& h) { h.flags = 1; }), FrameError::kMalformed);
  EXPECT_EQ(decode([](FrameHeader& h) { h.layer = limits::kMaxLayers; }), FrameError::kOutOfRange);
  EXPECT_EQ(decode([](FrameHeader& h) { ++h.payload_bytes; }), FrameError::kTruncated);
  EXPECT_EQ(decode([](FrameHeader& h) { --h.payload_bytes; }), FrameError::kBadSize);
  EXPECT_EQ(decode([](FrameHeader& h) { h.payload_bytes = limits::kMaxFramePayloadBytes + 1; }), FrameError::kBadSize);
  for (size_t bytes = 0; bytes < kFrameHeaderBytes; ++bytes) {
    EXPECT_EQ(DecodeHeader(BytesOf(frame.header).first(bytes), size, &out), FrameError::kTruncated);
  }
}

TEST_F(FrameTest, QueryRoundTrip) {
  const std::vector<QueryEntry> entries = {{.shard_id = 7,
                                            .sequence_epoch = 3,
                                            .visible_begin = 64,
                                            .visible_end = 128,
                                            .num_q_heads = 1,
                                            .n_q = 1,
                                            .policy_bytes = 17},
                                           {.shard_id = 8,
                                            .sequence_epoch = 2,
                                            .visible_begin = 0,
                                            .visible_end = 0,
                                            .num_q_heads = 2,
                                            .n_q = 3,
                                            .flags = kQueryAppend | kQueryAppendEnd},
                                           {.shard_id = 9,
                                            .visible_end = 1,
                                            .num_q_heads = 33,
                                            .n_q = 1,
                                            .flags = kQueryMeasure | kQueryDenseHeads,
                                            .policy_bytes = 3}};
  std::vector<std::byte> payload(QueryPayloadBytes(entries, 5));
  QueryPayloadWriter writer(payload, 3, 5, 0.25f, /*soft_cap=*/30.0f);
  float next = 0;
  for (const QueryEntry& entry : entries) {
    EXPECT_FALSE(writer.complete());
    const QuerySpans spans = writer.Add(entry);
    for (float& x : spans.q) x = next++;
    ASSERT_EQ(spans.dense_heads.size(), entry.shard_id == 9 ? 2u : 0u) << "33 heads take 33 bits";
    if (entry.shard_id == 9) spans.dense_heads[0] = 0x80000001, spans.dense_heads[1] = 1;
    ASSERT_EQ(spans.policy.size(), entry.policy_bytes);
    for (std::byte& b : spans.policy) b = std::byte{0xab};
  }
  EXPECT_TRUE(writer.complete());
  QueryView view;
  ASSERT_EQ(QueryView::Decode(payload, &view), FrameError::kOk);
  EXPECT_EQ(view.body().softmax_scale, 0.25f);
  EXPECT_EQ(view.body().soft_cap, 30.0f);
  float expected = 0;
  for (uint32_t i = 0; i < 3; ++i) {
    const QueryEntry entry = view.entry(i);
    EXPECT_EQ(entry.q_offset_bytes % 8, 0u);
    const std::span<const std::byte> policy = view.policy(entry);
    EXPECT_EQ(std::vector<std::byte>(policy.begin(), policy.end()),
              std::vector<std::byte>(entries[i].policy_bytes, std::byte{0xab}));
    EXPECT_EQ(entry.shard_id, entries[i].shard_id);
    EXPECT_EQ(entry.sequence_epoch, entries[i].sequence_epoch);
    EXPECT_EQ(entry.visible_end, entries[i].visible_end);
    EXPECT_EQ(entry.flags, entries[i].flags);
    const std::span<const std::byte> q = view.q(entry);
    ASSERT_EQ(q.size(), size_t{entry.n_q} * entry.num_q_heads * 5 * sizeof(float));
    for (size_t at = 0; at < q.size(); at += sizeof(float)) EXPECT_EQ(ReadAt<float>(q, at), expected++);
  }
  EXPECT_TRUE(view.dense_heads(view.entry(0)).empty());
  const std::span<const std::byte> dense = view.dense_heads(view.entry(2));
  ASSERT_EQ(dense.size(), 8u);
  EXPECT_EQ(ReadAt<uint32_t>(dense, 0), 0x80000001u);
  EXPECT_EQ(ReadAt<uint32_t>(dense, 4), 1u);
}

TEST_F(FrameTest, PartialRoundTrip) {
  const std::vector<PartialEntry> entries = {
      {.shard_id = 7, .num_q_heads = 1, .n_q = 1, .num_kv_heads = 1, .policy_bytes = 5},
      {.shard_id = 8,
       .status = static_cast<uint32_t>(FrameError::kNotStored),
       .num_q_heads = 2,
       .n_q = 1,
       .flags = kPartialMeasured},
      {.shard_id = 9, .num_q_heads = 4, .n_q = 2, .flags = kPartialMeasured, .num_kv_heads = 2, .policy_bytes = 8}};
  std::vector<std::byte> payload(PartialPayloadBytes(entries, 3));
  PartialPayloadWriter writer(payload, 3, 3);
  float next = 0;
  for (const PartialEntry& entry : entries) {
    const PartialSpans data = writer.Add(entry);
    for (float& x : data.out) x = next++;
    for (float& x : data.lse_ln) x = next++;
    for (float& x : data.sample.out) x = next++;
    for (float& x : data.sample.lse_ln) x = next++;
    for (uint32_t& x : data.attended_tokens) x = 5;
    if (!data.sampled_tokens.empty()) data.sampled_tokens[0] = data.sampled_tokens[1] = 20;
    for (std::byte& b : data.policy) b = std::byte{0xcd};
    EXPECT_EQ(data.sample.out.size(), entry.shard_id == 9 ? 24u : 0u);
    EXPECT_EQ(data.sample.lse_ln.size(), entry.shard_id == 9 ? 8u : 0u);
    EXPECT_EQ(data.attended_tokens.size(), entry.shard_id == 9 ? 2u : 0u);
  }
  EXPECT_TRUE(writer.complete());
  writer.SetCoverage(2, {.covered_tokens = 20, .attended_head_tokens = 10});
  writer.SetTimes(11, 22);
  PartialFrameView view;
  ASSERT_EQ(PartialFrameView::Decode(payload, &view), FrameError::kOk);
  EXPECT_EQ(view.body().queue_ns, 11u);
  EXPECT_EQ(view.body().compute_ns, 22u);
  EXPECT_EQ(view.entry(2).covered_tokens, 20u);
  EXPECT_EQ(view.entry(2).attended_head_tokens, 10u);
  EXPECT_EQ(view.policy(view.entry(0)).size(), 5u);
  EXPECT_EQ(view.policy(view.entry(0)).back(), std::byte{0xcd});
  EXPECT_TRUE(view.policy(view.entry(1)).empty());
  EXPECT_EQ(view.policy(view.entry(2)).size(), 8u);
  EXPECT_EQ(view.policy(view.entry(2)).front(), std::byte{0xcd});
  EXPECT_TRUE(view.out(view.entry(1)).empty());
  EXPECT_TRUE(view.lse_ln(view.entry(1)).empty());
  for (const uint32_t i : {0u, 1u}) {
    EXPECT_TRUE(view.sample_out(view.entry(i)).empty());
    EXPECT_TRUE(view.sample_lse_ln(view.entry(i)).empty());
    EXPECT_TRUE(view.attended_tokens(view.entry(i)).empty());
    EXPECT_TRUE(view.sampled_tokens(view.entry(i)).empty());
  }
  const std::span<const std::byte> attended = view.attended_tokens(view.entry(2));
  ASSERT_EQ(attended.size(), 8u);
  EXPECT_EQ(ReadAt<uint32_t>(attended, 4), 5u);
  const std::span<const std::byte> sampled = view.sampled_tokens(view.entry(2));
  ASSERT_EQ(sampled.size(), 8u);
  EXPECT_EQ(ReadAt<uint32_t>(sampled, 4), 20u);
  float expected = 0;
  for (uint32_t i : {0u, 2u}) {
    for (std::span<const std::byte> data : {view.out(view.entry(i)), view.lse_ln(view.entry(i)),
                                            view.sample_out(view.entry(i)), view.sample_lse_ln(view.entry(i))}) {
      for (size_t at = 0; at < data.size(); at += sizeof(float)) EXPECT_EQ(ReadAt<float>(data, at), expected++);
    }
  }
  EXPECT_EQ(expected, next);
}

TEST_F(FrameTest, SpillErrorAckHeartbeatRoundTrip) {
  const SpillBody body{.shard_id = 1,
                       .sequence_epoch = 2,
                       .token_begin = 3,
                       .num_tokens = 2,
                       .num_kv_heads = 2,
                       .head_dim = 3,
                       .k_dtype = 1,
                       .v_dtype = 2,
                       .policy_bytes = 9};
  std::vector<std::byte> payload(SpillPayloadBytes(body));
  const SpillSpans spans = WriteSpill(body, payload);
  EXPECT_EQ(spans.k.size(), 48u);
  EXPECT_EQ(spans.v.size(), 24u);
  spans.k.front() = std::byte{17};
  spans.v.back() = std::byte{23};
  ASSERT_EQ(spans.policy.size(), 9u);
  spans.policy.back() = std::byte{29};
  SpillView view;
  ASSERT_EQ(SpillView::Decode(payload, &view), FrameError::kOk);
  EXPECT_EQ(view.k().size(), 48u);
  EXPECT_EQ(view.k().front(), std::byte{17});
  EXPECT_EQ(view.v().size(), 24u);
  EXPECT_EQ(view.v().back(), std::byte{23});
  ASSERT_EQ(view.policy().size(), 9u);
  EXPECT_EQ(view.policy().back(), std::byte{29});
  EXPECT_EQ((view.policy().data() - payload.data()) % 8, 0);

  const std::string long_text(limits::kMaxErrorTextBytes + 5, 'y');
  payload.assign(ErrorPayloadBytes(long_text), std::byte{0});
  WriteError({.error = 8, .rejected_type = 1, .rejected_frame_seq = 55}, long_text, payload);
  ErrorBody error;
  std::string_view text;
  ASSERT_EQ(DecodeError(payload, &error, &text), FrameError::kOk);
  EXPECT_EQ(error.rejected_frame_seq, 55u);
  EXPECT_EQ(text, std::string(limits::kMaxErrorTextBytes, 'y'));

  payload.assign(kAckPayloadBytes, std::byte{0});
  WriteAck({.shard_id = 4, .token_begin = 5, .num_tokens = 6, .status = 14, .stored_tokens = 7}, payload);
  AckBody ack;
  ASSERT_EQ(DecodeAck(payload, &ack), FrameError::kOk);
  EXPECT_EQ(ack.status, static_cast<uint32_t>(FrameError::kExhausted));
  EXPECT_EQ(ack.stored_tokens, 7u);

  payload.assign(kHeartbeatPayloadBytes, std::byte{0});
  WriteHeartbeat({.sent_ns = 99, .is_reply = 1}, payload);
  HeartbeatBody heartbeat;
  ASSERT_EQ(DecodeHeartbeat(payload, &heartbeat), FrameError::kOk);
  EXPECT_EQ(heartbeat.sent_ns, 99u);
}

// One field of a good payload spoiled at a time.
struct SpoiledField {
  size_t offset;
  uint64_t value;
  size_t bytes;
  FrameError expected;
};

template <typename Decode>
void ExpectRefused(const std::vector<std::byte>& good, const std::vector<SpoiledField>& fields, Decode decode) {
  ASSERT_EQ(decode(good), FrameError::kOk);
  for (const SpoiledField& field : fields) {
    std::vector<std::byte> bad = good;
    std::memcpy(bad.data() + field.offset, &field.value, field.bytes);
    EXPECT_EQ(decode(bad), field.expected) << "offset " << field.offset << " value " << field.value;
  }
}

uint64_t FloatBits(float value) { return std::bit_cast<uint32_t>(value); }

TEST_F(FrameTest, QueryFieldsAreChecked) {
  const std::vector<QueryEntry> entries(2, {.visible_begin = 4, .visible_end = 8, .num_q_heads = 2, .n_q = 1});
  std::vector<std::byte> good(QueryPayloadBytes(entries, 4));
  QueryPayloadWriter writer(good, 2, 4, 1.0f);
  for (const QueryEntry& entry : entries) writer.Add(entry);
  constexpr size_t kEntry0 = sizeof(QueryBody), kEntry1 = kEntry0 + sizeof(QueryEntry);
  constexpr uint64_t kHuge = ~uint64_t{0};
  ExpectRefused(
      good,
      {{0, 0, 4, FrameError::kBadSize},
       {0, kHuge, 4, FrameError::kBadSize},
       {0, limits::kMaxEntriesPerFrame, 4, FrameError::kTruncated},
       {4, FloatBits(std::nanf("")), 4, FrameError::kMalformed},
       {4, FloatBits(INFINITY), 4, FrameError::kMalformed},
       {4, FloatBits(0.0f), 4, FrameError::kMalformed},
       {4, FloatBits(-1.0f), 4, FrameError::kMalformed},
       {8, 0, 4, FrameError::kBadGeometry},
       {8, limits::kMaxHeadDim + 1, 4, FrameError::kBadGeometry},
       {12, 1, 4, FrameError::kMalformed},  // a cap that is nearly 0
       {12, FloatBits(std::nanf("")), 4, FrameError::kMalformed},
       {12, FloatBits(INFINITY), 4, FrameError::kMalformed},
       {12, FloatBits(-50.0f), 4, FrameError::kMalformed},
       {12, FloatBits(2 * limits::kMaxSoftCap), 4, FrameError::kMalformed},
       {12, FloatBits(limits::kMinSoftCap / 2), 4, FrameError::kMalformed},
       {kEntry0 + offsetof(QueryEntry, visible_begin), 9, 8, FrameError::kOutOfRange},
       {kEntry0 + offsetof(QueryEntry, visible_end), kHuge, 8, FrameError::kOutOfRange},
       {kEntry0 + offsetof(QueryEntry, num_q_heads), 0, 4, FrameError::kBadGeometry},
       {kEntry0 + offsetof(QueryEntry, num_q_heads), kHuge, 4, FrameError::kBadGeometry},
       {kEntry0 + offsetof(QueryEntry, n_q), 0, 4, FrameError::kBadSize},
       {kEntry0 + offsetof(QueryEntry, n_q), kHuge, 4, FrameError::kTruncated},
       {kEntry0 + offsetof(QueryEntry, q_offset_bytes), 0, 4, FrameError::kBadSize},
       {kEntry0 + offsetof(QueryEntry, q_offset_bytes), kHuge, 4, FrameError::kTruncated},
       {kEntry0 + offsetof(QueryEntry, flags), 16, 4, FrameError::kMalformed},
       {kEntry0 + offsetof(QueryEntry, flags), kHuge, 4, FrameError::kMalformed},
       {kEntry0 + offsetof(QueryEntry, reserved), 1, 4, FrameError::kMalformed},
       {kEntry0 + offsetof(QueryEntry, policy_bytes), kHuge, 4, FrameError::kBadSize},
       {kEntry0 + offsetof(QueryEntry, policy_bytes), limits::kMaxPolicySectionBytes, 4, FrameError::kTruncated},
       {kEntry1 + offsetof(QueryEntry, policy_bytes), 1, 4, FrameError::kTruncated},
       {kEntry0 + offsetof(QueryEntry, flags), kQueryMeasure | kQueryAppend, 4, FrameError::kMalformed},
       {kEntry0 + offsetof(QueryEntry, flags), kQueryAppendEnd, 4, FrameError::kMalformed},
       {kEntry0 + offsetof(QueryEntry, flags), kQueryAppend | kQueryDenseHeads, 4, FrameError::kMalformed},
       // The words would lie where the second entry's data begin.
       {kEntry0 + offsetof(QueryEntry, flags), kQueryDenseHeads, 4, FrameError::kBadSize},
       {kEntry1 + offsetof(QueryEntry, flags), kQueryDenseHeads, 4, FrameError::kTruncated},
       // The second entry's data on top of the first's, and a hole at the end.
       {kEntry1 + offsetof(QueryEntry, q_offset_bytes), kEntry1 + sizeof(QueryEntry), 4, FrameError::kBadSize},
       {kEntry1 + offsetof(QueryEntry, num_q_heads), 1, 4, FrameError::kBadSize}},
      [](const std::vector<std::byte>& payload) {
        QueryView view;
        return QueryView::Decode(payload, &view);
      });
}

TEST_F(FrameTest, PartialFieldsAreChecked) {
  const std::vector<PartialEntry> entries(2, {.num_q_heads = 4,
                                              .covered_tokens = 5,
                                              .attended_head_tokens = 8,
                                              .n_q = 1,
                                              .flags = kPartialMeasured,
                                              .num_kv_heads = 2});
  std::vector<std::byte> good(PartialPayloadBytes(entries, 4));
  PartialPayloadWriter writer(good, 2, 4);
  for (const PartialEntry& entry : entries) {
    const PartialSpans data = writer.Add(entry);
    data.attended_tokens[0] = 5;
    data.attended_tokens[1] = 3;
    data.sampled_tokens[0] = 4;
    data.sampled_tokens[1] = 5;
  }
  const size_t sampled = good.size() - 2 * sizeof(uint32_t);  // of the second entry
  const size_t attended = sampled - 2 * sizeof(uint32_t);
  constexpr size_t kEntry0 = sizeof(PartialBody), kEntry1 = kEntry0 + sizeof(PartialEntry);
  constexpr uint64_t kHuge = ~uint64_t{0};
  ExpectRefused(good,
                {{0, 0, 4, FrameError::kBadSize},
                 {4, 0, 4, FrameError::kBadGeometry},
                 {kEntry0 + offsetof(PartialEntry, status), kNumFrameErrors, 4, FrameError::kMalformed},
                 {kEntry0 + offsetof(PartialEntry, num_q_heads), 0, 4, FrameError::kBadGeometry},
                 {kEntry0 + offsetof(PartialEntry, covered_tokens), kHuge, 8, FrameError::kOutOfRange},
                 {kEntry0 + offsetof(PartialEntry, attended_head_tokens), 11, 8, FrameError::kOutOfRange},
                 {kEntry0 + offsetof(PartialEntry, attended_head_tokens), 7, 8, FrameError::kOutOfRange},
                 {kEntry0 + offsetof(PartialEntry, num_kv_heads), 0, 4, FrameError::kBadGeometry},
                 {kEntry0 + offsetof(PartialEntry, num_kv_heads), 3, 4, FrameError::kBadGeometry},
                 {kEntry0 + offsetof(PartialEntry, num_kv_heads), kHuge, 4, FrameError::kBadGeometry},
                 {kEntry0 + offsetof(PartialEntry, flags), 2, 4, FrameError::kMalformed},
                 {kEntry0 + offsetof(PartialEntry, reserved), 1, 4, FrameError::kMalformed},
                 {kEntry0 + offsetof(PartialEntry, policy_bytes), kHuge, 4, FrameError::kBadSize},
                 {kEntry1 + offsetof(PartialEntry, policy_bytes), 1, 4, FrameError::kTruncated},
                 {kEntry1 + offsetof(PartialEntry, flags), 0, 4, FrameError::kBadSize},
                 {attended, 6, 4, FrameError::kOutOfRange},
                 {attended, 4, 4, FrameError::kOutOfRange},
                 {attended + 4, 4, 4, FrameError::kOutOfRange},  // 9 together
                 {sampled, 6, 4, FrameError::kOutOfRange},
                 {sampled + 4, 4, 4, FrameError::kOutOfRange},  // neither is over all 5
                 {kEntry0 + offsetof(PartialEntry, n_q), kHuge, 4, FrameError::kTruncated},
                 {kEntry1 + offsetof(PartialEntry, status), 3, 4, FrameError::kBadSize},  // its data is left over
                 {kEntry1 + offsetof(PartialEntry, data_offset_bytes), 8, 4, FrameError::kBadSize}},
                [](const std::vector<std::byte>& payload) {
                  PartialFrameView view;
                  return PartialFrameView::Decode(payload, &view);
                });
}

TEST_F(FrameTest, SpillFieldsAreChecked) {
  const SpillBody body{.token_begin = 3,
                       .num_tokens = 2,
                       .num_kv_heads = 1,
                       .head_dim = 3,
                       .k_dtype = 2,
                       .v_dtype = 1,
                       .policy_bytes = 5};
  std::vector<std::byte> good(SpillPayloadBytes(body));
  WriteSpill(body, good);
  constexpr uint64_t kHuge = ~uint64_t{0};
  ExpectRefused(good,
                {{offsetof(SpillBody, token_begin), kHuge, 8, FrameError::kOutOfRange},
                 {offsetof(SpillBody, token_begin), limits::kMaxContextTokens - 1, 8, FrameError::kOutOfRange},
                 {offsetof(SpillBody, num_tokens), 0, 4, FrameError::kBadSize},
                 {offsetof(SpillBody, num_tokens), kHuge, 4, FrameError::kOutOfRange},
                 {offsetof(SpillBody, num_tokens), 1, 4, FrameError::kBadSize},
                 {offsetof(SpillBody, num_tokens), 3, 4, FrameError::kTruncated},
                 {offsetof(SpillBody, num_kv_heads), 0, 4, FrameError::kBadGeometry},
                 {offsetof(SpillBody, num_kv_heads), kHuge, 4, FrameError::kBadGeometry},
                 {offsetof(SpillBody, head_dim), kHuge, 4, FrameError::kBadGeometry},
                 {offsetof(SpillBody, k_dtype), 0, 1, FrameError::kBadGeometry},
                 {offsetof(SpillBody, v_dtype), 4, 1, FrameError::kBadGeometry},
                 {offsetof(SpillBody, reserved), 1, 2, FrameError::kMalformed},
                 {offsetof(SpillBody, policy_bytes), 0, 4, FrameError::kBadSize},
                 {offsetof(SpillBody, policy_bytes), 4, 4, FrameError::kBadSize},
                 {offsetof(SpillBody, policy_bytes), 6, 4, FrameError::kTruncated},
                 {offsetof(SpillBody, policy_bytes), kHuge, 4, FrameError::kBadSize},
                 {sizeof(SpillBody) + 36, 1, 1, FrameError::kMalformed},  // between V and the section
                 {offsetof(SpillBody, reserved_end), 1, 4, FrameError::kMalformed}},
                [](const std::vector<std::byte>& payload) {
                  SpillView view;
                  return SpillView::Decode(payload, &view);
                });
}

TEST_F(FrameTest, SmallFramesFieldsAreChecked) {
  constexpr uint64_t kHuge = ~uint64_t{0};
  const auto decode = [](FrameType type) {
    return [type](const std::vector<std::byte>& payload) {
      uint64_t digest;
      return DecodePayload(type, payload, &digest);
    };
  };
  ExpectRefused(MakeSampleFrame(random_, FrameType::kAck).payload,
                {{offsetof(AckBody, status), kNumFrameErrors, 4, FrameError::kMalformed},
                 {offsetof(AckBody, token_begin), kHuge, 8, FrameError::kOutOfRange},
                 {offsetof(AckBody, num_tokens), kHuge, 4, FrameError::kOutOfRange},
                 {offsetof(AckBody, stored_tokens), kHuge, 8, FrameError::kOutOfRange}},
                decode(FrameType::kAck));
  ExpectRefused(MakeSampleFrame(random_, FrameType::kError).payload,
                {{offsetof(ErrorBody, error), 0, 4, FrameError::kMalformed},
                 {offsetof(ErrorBody, error), kNumFrameErrors, 4, FrameError::kMalformed},
                 {offsetof(ErrorBody, reserved), 1, 4, FrameError::kMalformed},
                 {offsetof(ErrorBody, text_bytes), kHuge, 4, FrameError::kBadSize},
                 {offsetof(ErrorBody, text_bytes), 41, 4, FrameError::kTruncated}},
                decode(FrameType::kError));
  ExpectRefused(MakeSampleFrame(random_, FrameType::kHeartbeat).payload,
                {{offsetof(HeartbeatBody, is_reply), 2, 4, FrameError::kMalformed},
                 {offsetof(HeartbeatBody, reserved), 1, 4, FrameError::kMalformed}},
                decode(FrameType::kHeartbeat));
}

TEST_F(FrameTest, ErrorNamesAreDistinctMetricLabels) {
  std::set<std::string_view> names;
  for (uint32_t i = 0; i < kNumFrameErrors; ++i) {
    const std::string_view name = FrameErrorName(static_cast<FrameError>(i));
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_EQ(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz_"), std::string_view::npos);
  }
  EXPECT_EQ(FrameErrorName(FrameError::kOk), "ok");
  EXPECT_EQ(FrameErrorName(FrameError::kMalformed), "malformed");
  EXPECT_EQ(FrameErrorName(FrameError::kNotGranted), "not_granted");
  EXPECT_EQ(FrameErrorName(static_cast<FrameError>(kNumFrameErrors)), "unknown");
}

using FrameDeathTest = FrameTest;

TEST_F(FrameDeathTest, WritersCheckTheirMemory) {
  const std::vector<QueryEntry> entries(1, {.num_q_heads = 2, .n_q = 1});
  std::vector<std::byte> payload(QueryPayloadBytes(entries, 4) - 4);
  QueryPayloadWriter writer(payload, 1, 4, 1.0f);
  EXPECT_DEATH(writer.Add(entries[0]), "check failed");
  EXPECT_DEATH(WriteAck({}, payload), "check failed");
}

}  // namespace
}  // namespace tributary
