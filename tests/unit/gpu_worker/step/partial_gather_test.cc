#include "gpu_worker/step/partial_gather.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "wire/frame_builder.h"

namespace tributary {
namespace {

constexpr AttentionShape kShape{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
constexpr uint64_t kStep = 7;
constexpr uint32_t kLayer = 2;

struct Answer {
  uint64_t shard;
  uint32_t num_q_heads;
  uint64_t covered;
  float value;  // of out; lse_ln is value / 10
  FrameError status = FrameError::kOk;
  uint64_t unread = 0;  // covered tokens of KV heads that were not attended to
  uint32_t num_kv_heads = num_q_heads / 2;
  uint32_t n_q = 1;  // query token i has value + i
  bool measured = false;
  float sample_value = value;                          // of sample_out; sample_lse_ln is a tenth of it
  uint32_t per_head = static_cast<uint32_t>(covered);  // attended_tokens of each KV head
  uint32_t sampled = static_cast<uint32_t>(covered);   // sampled_tokens of each KV head
};

// One partial frame's payload. The view points into it.
class Frame {
 public:
  explicit Frame(const std::vector<Answer>& answers, uint32_t head_dim = kShape.head_dim) {
    std::vector<PartialEntry> entries;
    for (const Answer& answer : answers) {
      entries.push_back({.shard_id = answer.shard,
                         .status = static_cast<uint32_t>(answer.status),
                         .num_q_heads = answer.num_q_heads,
                         .covered_tokens = answer.covered,
                         .attended_head_tokens = answer.covered * answer.num_kv_heads - answer.unread,
                         .n_q = answer.n_q,
                         .flags = answer.measured ? kPartialMeasured : 0,
                         .num_kv_heads = answer.num_kv_heads});
    }
    words_.resize(PartialPayloadBytes(entries, head_dim) / 8 + 1);
    const std::span<std::byte> payload(reinterpret_cast<std::byte*>(words_.data()),
                                       PartialPayloadBytes(entries, head_dim));
    PartialPayloadWriter writer(payload, static_cast<uint32_t>(entries.size()), head_dim);
    for (size_t i = 0; i < entries.size(); ++i) {
      const PartialSpans data = writer.Add(entries[i]);
      if (data.lse_ln.empty()) continue;  // refused
      const size_t out_floats = data.out.size() / answers[i].n_q;
      const size_t lse_floats = data.lse_ln.size() / answers[i].n_q;
      for (uint32_t q = 0; q < answers[i].n_q; ++q) {
        const float value = answers[i].value + static_cast<float>(q);
        std::fill_n(data.out.begin() + q * out_floats, out_floats, value);
        std::fill_n(data.lse_ln.begin() + q * lse_floats, lse_floats, value / 10);
      }
      std::fill(data.sample.out.begin(), data.sample.out.end(), answers[i].sample_value);
      std::fill(data.sample.lse_ln.begin(), data.sample.lse_ln.end(), answers[i].sample_value / 10);
      std::fill(data.sampled_tokens.begin(), data.sampled_tokens.end(), answers[i].sampled);
      std::fill(data.attended_tokens.begin(), data.attended_tokens.end(), answers[i].per_head);
    }
    EXPECT_EQ(PartialFrameView::Decode(payload, &view), FrameError::kOk);
  }
  PartialFrameView view;

 private:
  std::vector<uint64_t> words_;
};

class PartialGatherTest : public testing::Test {
 protected:
  PartialGatherTest() : out_(3 * kMaxSlots * 4 * 8, 99.0f), lse_(3 * kMaxSlots * 4, 99.0f), gather_(kShape) {
    slots_ = {out_, lse_, kMaxSlots};
  }
  static constexpr uint32_t kMaxSlots = 2;

  void Begin(const std::vector<ExpectedPartial>& expected, const std::vector<GatherRow>& rows) {
    gather_.Begin(kStep, kLayer, expected, rows, &slots_);
  }
  std::vector<Arrival> Arrive(NodeIdx node, const Frame& frame, uint64_t step = kStep, uint16_t layer = kLayer) {
    std::vector<Arrival> arrivals;
    const FrameHeader header{.step_id = step, .layer = layer};
    gather_.OnPartial(node, header, frame.view, [&](Arrival arrival, const ExpectedPartial*, const PartialEntry&) {
      arrivals.push_back(arrival);
    });
    return arrivals;
  }
  // No other node has what it was asked for.
  void FailNode(NodeIdx node) {
    const auto to_ask = gather_.LoseNode(
        node, absl::UnavailableError("gone"), [](const auto&) { return kNoNode; },
        [](const auto&) { return Missing::kFails; });
    EXPECT_TRUE(to_ask.empty());
  }
  float Lse(uint32_t row, uint32_t slot, uint32_t head) const { return lse_[(row * kMaxSlots + slot) * 4 + head]; }
  float Out(uint32_t row, uint32_t slot, uint32_t head) const {
    return out_[((row * kMaxSlots + slot) * 4 + head) * 8];
  }

  std::vector<float> out_, lse_;
  PartialSlots slots_;
  PartialGather gather_;
};

// Row 0: two stripes on nodes 0 and 1. Row 1: one stripe cut into two heads on nodes 0 and 1. Row 2: all resident.
const std::vector<ExpectedPartial> kExpected = {{0, ShardId(10), 0, 0, 0, 2, 30},
                                                {1, ShardId(11), 0, 1, 0, 2, 20},
                                                {0, ShardId(20), 1, 0, 0, 1, 40},
                                                {1, ShardId(21), 1, 0, 1, 2, 40}};
const std::vector<GatherRow> kRows = {{60, 10, 2}, {45, 5, 1}, {9, 9, 0}};

TEST_F(PartialGatherTest, FillsSlotsByStripeAndHeadWhateverTheOrder) {
  Begin(kExpected, kRows);
  EXPECT_EQ(Lse(0, 0, 0), kEmptyLse);
  EXPECT_EQ(Lse(2, 0, 0), 99.0f) << "rows without slots are left alone";
  EXPECT_FALSE(gather_.done());
  const auto taken = std::vector{Arrival::kTaken, Arrival::kTaken};
  EXPECT_EQ(Arrive(1, Frame({{21, 2, 40, 4}, {11, 4, 20, 2}})), taken);
  EXPECT_FALSE(gather_.done());
  EXPECT_EQ(Arrive(0, Frame({{10, 4, 30, 1}, {20, 2, 40, 3}})), taken);
  EXPECT_TRUE(gather_.done());
  EXPECT_TRUE(gather_.Finish().empty());
  EXPECT_EQ(Out(0, 0, 3), 1);
  EXPECT_EQ(Out(0, 1, 0), 2);
  EXPECT_EQ(Out(1, 0, 1), 3);
  EXPECT_EQ(Out(1, 0, 2), 4);
  EXPECT_FLOAT_EQ(Lse(1, 0, 3), 0.4f);
  EXPECT_EQ(Lse(1, 1, 0), 99.0f) << "beyond the row's slots";
}

TEST_F(PartialGatherTest, LateDuplicateAndUnexpectedPartialsChangeNothing) {
  Begin(kExpected, kRows);
  const auto late = std::vector{Arrival::kLate};
  EXPECT_EQ(Arrive(0, Frame({{10, 4, 30, 5}}), kStep - 1), late);
  EXPECT_EQ(Arrive(0, Frame({{10, 4, 30, 5}}), kStep, kLayer - 1), late);
  EXPECT_EQ(Arrive(1, Frame({{10, 4, 30, 5}})), std::vector{Arrival::kUnexpected});
  EXPECT_EQ(Arrive(0, Frame({{99, 4, 30, 5}})), std::vector{Arrival::kUnexpected});
  EXPECT_EQ(Lse(0, 0, 0), kEmptyLse);
  EXPECT_EQ(Arrive(0, Frame({{10, 4, 30, 1}})), std::vector{Arrival::kTaken});
  EXPECT_EQ(Arrive(0, Frame({{10, 4, 30, 5}})), late);
  EXPECT_EQ(Out(0, 0, 0), 1);
  EXPECT_EQ(gather_.num_missing(), 3u);
  gather_.EndMissing(absl::DeadlineExceededError("late"), [](const auto&) { return Missing::kFails; });
  gather_.Finish();
  EXPECT_EQ(Arrive(1, Frame({{11, 4, 20, 5}})), late) << "between layers";
}

TEST_F(PartialGatherTest, ALostNodeFailsTheRowsThatWaitForItOnly) {
  const std::vector<GatherRow> rows = {{60, 10, 2}, {45, 5, 1}, {14, 9, 1}};
  auto expected = kExpected;
  expected.push_back({2, ShardId(30), 2, 0, 0, 2, 5});
  Begin(expected, rows);
  Arrive(1, Frame({{11, 4, 20, 2}}));  // row 0's share of node 1 has arrived already
  FailNode(1);
  Arrive(0, Frame({{10, 4, 30, 1}}));
  EXPECT_EQ(Arrive(0, Frame({{20, 2, 40, 3}})), std::vector{Arrival::kLate}) << "its row has failed";
  Arrive(2, Frame({{30, 4, 5, 1}}));
  ASSERT_TRUE(gather_.done());
  const auto failures = gather_.Finish();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].row, 1u);
  EXPECT_EQ(failures[0].node, 1u);
  EXPECT_EQ(failures[0].status.code(), absl::StatusCode::kUnavailable);
}

// Of the two shards that node 1 was asked for and has not answered, node 5 holds one, too: the other one's row fails,
// and the answers of others count as before.
TEST_F(PartialGatherTest, WhatALostNodeOwesIsAskedOfAnother) {
  const std::vector<GatherRow> rows = {{60, 10, 2}, {45, 5, 1}, {14, 9, 1}};
  auto expected = kExpected;
  expected.push_back({1, ShardId(30), 2, 0, 0, 2, 5});
  Begin(expected, rows);
  Arrive(0, Frame({{10, 4, 30, 1}}));
  Arrive(1, Frame({{30, 4, 5, 1}}));  // this is not asked again
  std::vector<ShardId> offered;
  const auto to_ask = gather_.LoseNode(
      1, absl::UnavailableError("gone"),
      [&](const ExpectedPartial& e) {
        offered.push_back(e.shard);
        return e.shard == ShardId(11) ? NodeIdx{5} : kNoNode;
      },
      [](const auto&) { return Missing::kFails; });
  EXPECT_EQ(offered, (std::vector{ShardId(11), ShardId(21)}));
  ASSERT_EQ(to_ask.size(), 1u);
  EXPECT_EQ(to_ask[0].shard, ShardId(11));
  EXPECT_EQ(to_ask[0].node, 5u);
  EXPECT_FALSE(gather_.done());
  EXPECT_EQ(Arrive(1, Frame({{11, 4, 20, 9}})), std::vector{Arrival::kUnexpected}) << "it is not asked any more";
  EXPECT_EQ(Arrive(5, Frame({{11, 4, 20, 2}})), std::vector{Arrival::kTaken});
  ASSERT_TRUE(gather_.done());
  const auto failures = gather_.Finish();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].row, 1u);
  EXPECT_EQ(failures[0].node, 1u);
  EXPECT_EQ(Out(0, 1, 0), 2);
  EXPECT_EQ(Out(0, 0, 0), 1);
}

// A row that fails for one of its shards asks nobody for the others.
TEST_F(PartialGatherTest, ARowThatFailsAsksNobodyElse) {
  const std::vector<ExpectedPartial> expected = {{1, ShardId(20), 0, 0, 0, 1, 40}, {1, ShardId(21), 0, 0, 1, 2, 40}};
  Begin(expected, std::vector<GatherRow>{{45, 5, 1}});
  const auto to_ask = gather_.LoseNode(
      1, absl::UnavailableError("gone"),
      [](const ExpectedPartial& e) { return e.shard == ShardId(20) ? NodeIdx{5} : kNoNode; },
      [](const auto&) { return Missing::kFails; });
  EXPECT_TRUE(to_ask.empty());
  EXPECT_TRUE(gather_.done());
  EXPECT_EQ(gather_.Finish().size(), 1u);
}

TEST_F(PartialGatherTest, RowsOfASilentNodeParkOrWait) {
  const std::vector<GatherRow> rows = {{60, 10, 2}, {45, 5, 1}, {14, 9, 1}};
  auto expected = kExpected;
  expected.push_back({1, ShardId(30), 2, 0, 0, 2, 5});
  Begin(expected, rows);
  Arrive(0, Frame({{10, 4, 30, 1}, {20, 2, 40, 3}}));
  std::vector<ShardId> missing;
  gather_.ForEachMissing([&](const ExpectedPartial& e) { missing.push_back(e.shard); });
  EXPECT_EQ(missing, (std::vector{ShardId(11), ShardId(21), ShardId(30)}));
  const auto fate = [](const ExpectedPartial& e) { return e.row == 1 ? Missing::kWaits : Missing::kParks; };
  (void)gather_.LoseNode(
      1, absl::UnavailableError("silent"), [](const auto&) { return kNoNode; }, fate);
  EXPECT_TRUE(gather_.row_failed(0));
  EXPECT_FALSE(gather_.row_failed(1));
  EXPECT_FALSE(gather_.done());
  EXPECT_EQ(Arrive(1, Frame({{11, 4, 20, 2}})), std::vector{Arrival::kLate}) << "its row has left the batch";
  EXPECT_EQ(Arrive(1, Frame({{21, 2, 40, 2}})), std::vector{Arrival::kTaken});
  ASSERT_TRUE(gather_.done());
  const auto failures = gather_.Finish();
  ASSERT_EQ(failures.size(), 2u);
  for (const RowFailure& failure : failures) {
    EXPECT_TRUE(failure.parked);
    EXPECT_EQ(failure.node, 1u);
  }
}

TEST_F(PartialGatherTest, TheDeadlineBlamesANodeThatIsMissing) {
  Begin(kExpected, kRows);
  Arrive(0, Frame({{10, 4, 30, 1}, {20, 2, 40, 3}}));
  gather_.EndMissing(absl::DeadlineExceededError("too late"), [](const auto&) { return Missing::kFails; });
  ASSERT_TRUE(gather_.done());
  const auto failures = gather_.Finish();
  ASSERT_EQ(failures.size(), 2u);
  for (const RowFailure& failure : failures) EXPECT_EQ(failure.node, 1u);
}

TEST_F(PartialGatherTest, WrongAnswersFailTheirRowWithTheValues) {
  struct Case {
    Answer answer;
    std::string text;
    absl::StatusCode code = absl::StatusCode::kInternal;
  };
  const std::vector<Case> cases = {
      {{10, 4, 29, 1}, "29"},                                  // covers less than it was asked for
      {{10, 2, 30, 1}, "of 2 heads"},                          // too few heads
      {{10, 4, 30, 0, FrameError::kNotStored}, "not_stored"},  // refused
      {{10, 4, 30, 0, FrameError::kCorruptKv}, "tile 30 of its KV head", absl::StatusCode::kDataLoss},
      {{10, 4, 30, std::numeric_limits<float>::quiet_NaN()}, "nan"},
      {{10, 4, 30, -INFINITY}, "-inf"},  // tokens, but an empty partial
      {{10, 4, 30, INFINITY, FrameError::kOk, 30}, "inf"},
      {{10, 4, 30, 1, FrameError::kOk, 0, 4}, "attended to 120 tokens"},  // more heads than it was asked for
  };
  for (const Case& c : cases) {
    Begin({kExpected[0]}, {{40, 10, 1}});
    Arrive(0, Frame({c.answer}));
    ASSERT_TRUE(gather_.done());
    const auto failures = gather_.Finish();
    ASSERT_EQ(failures.size(), 1u) << c.text;
    EXPECT_EQ(failures[0].status.code(), c.code);
    EXPECT_NE(failures[0].status.message().find(c.text), std::string::npos) << failures[0].status;
  }
  Begin({kExpected[0]}, {{40, 10, 1}});
  Arrive(0, Frame({{10, 4, 30, 1}}, 16));
  EXPECT_EQ(gather_.Finish().size(), 1u) << "other head_dim";
}

TEST_F(PartialGatherTest, AHeadOfASparsePartialMayHaveReadNothing) {
  Begin({kExpected[0]}, {{40, 10, 1}});
  Arrive(0, Frame({{10, 4, 30, -INFINITY, FrameError::kOk, 30}}));
  EXPECT_TRUE(gather_.Finish().empty());
  EXPECT_EQ(Lse(0, 0, 0), kEmptyLse);
}

std::vector<ExpectedPartial> Measured(std::vector<ExpectedPartial> expected) {
  for (ExpectedPartial& e : expected) e.measured = e.row < 2;
  return expected;
}

TEST_F(PartialGatherTest, MeasurementsLieInTheSlotsOfTheirStripesAndHeads) {
  auto rows = kRows;
  rows[0].measured = rows[1].measured = true;
  Begin(Measured(kExpected), rows);
  const auto answer = [](uint64_t shard, uint32_t heads, uint64_t covered, uint32_t per_head) {
    return Answer{.shard = shard,
                  .num_q_heads = heads,
                  .covered = covered,
                  .value = static_cast<float>(shard),
                  .unread = (covered - per_head) * heads / 2,
                  .measured = true,
                  .sample_value = static_cast<float>(shard) + 5,
                  .per_head = per_head};
  };
  Arrive(1, Frame({answer(21, 2, 40, 8), answer(11, 4, 20, 20)}));
  Arrive(0, Frame({answer(10, 4, 30, 3), answer(20, 2, 40, 7)}));
  ASSERT_TRUE(gather_.done());
  ASSERT_TRUE(gather_.Finish().empty());
  const MeasuredLayer first = gather_.measured(0);
  EXPECT_EQ(first.layer, kLayer);
  EXPECT_EQ(first.remote_tokens, 50u);
  EXPECT_EQ(first.num_slots, 2u);
  ASSERT_EQ(first.answer.out.size(), 2u * 4 * 8);
  EXPECT_FLOAT_EQ(first.answer.lse_ln[3], 1.0f);
  EXPECT_FLOAT_EQ(first.answer.out[3 * 8 + 7], 10.0f);
  ASSERT_EQ(first.sample.out.size(), 2u * 4 * 8);
  EXPECT_FLOAT_EQ(first.sample.lse_ln[3], 1.5f);
  EXPECT_FLOAT_EQ(first.sample.out[3 * 8 + 7], 15.0f);
  EXPECT_FLOAT_EQ(first.sample.lse_ln[4], 1.6f) << "stripe 1, head 0";
  EXPECT_FLOAT_EQ(first.sample.out[4 * 8], 16.0f);
  EXPECT_EQ(std::vector<uint32_t>(first.sampled_tokens.begin(), first.sampled_tokens.end()),
            (std::vector<uint32_t>{30, 30, 20, 20}));
  EXPECT_EQ(std::vector<uint32_t>(first.attended_tokens.begin(), first.attended_tokens.end()),
            (std::vector<uint32_t>{3, 3, 20, 20}));
  const MeasuredLayer second = gather_.measured(1);
  EXPECT_EQ(second.num_slots, 1u);
  EXPECT_FLOAT_EQ(second.sample.lse_ln[1], 2.5f);
  EXPECT_FLOAT_EQ(second.sample.lse_ln[2], 2.6f);
  EXPECT_EQ(std::vector<uint32_t>(second.attended_tokens.begin(), second.attended_tokens.end()),
            (std::vector<uint32_t>{7, 8}));
}

TEST_F(PartialGatherTest, WrongMeasurementsFailTheirRow) {
  const Answer good{
      .shard = 10, .num_q_heads = 4, .covered = 30, .value = 1, .unread = 50, .measured = true, .per_head = 5};
  struct Case {
    Answer answer;
    std::string text;
  };
  std::vector<Case> cases(4, {good, ""});
  cases[0].answer.measured = false;
  cases[0].text = "not measured, asked for 2, measured";
  cases[1].answer.sample_value = -INFINITY;
  cases[1].text = "a dense lse_ln of -inf";
  cases[2].answer.sample_value = std::numeric_limits<float>::quiet_NaN();
  cases[2].text = "a dense lse_ln of nan";
  cases[3].answer = {.shard = 10,
                     .num_q_heads = 4,
                     .covered = 30,
                     .value = 1,
                     .measured = true,
                     .sample_value = INFINITY,
                     .sampled = 5};
  cases[3].text = "a dense lse_ln of 0.1, and inf of what it selects";
  for (const Case& c : cases) {
    Begin(Measured({kExpected[0]}), {{40, 10, 1, true, false, true}});
    Arrive(0, Frame({c.answer}));
    const auto failures = gather_.Finish();
    ASSERT_EQ(failures.size(), 1u) << c.text;
    EXPECT_NE(failures[0].status.message().find(c.text), std::string::npos) << failures[0].status;
  }
  Begin({kExpected[0]}, {{40, 10, 1}});
  Arrive(0, Frame({good}));
  EXPECT_EQ(gather_.Finish().size(), 1u) << "measured, but nobody asked";
  // A selection may be empty, whichever of both it is.
  Answer empty = good;
  empty.value = -INFINITY;
  empty.sample_value = 1;
  Begin(Measured({kExpected[0]}), {{40, 10, 1, true, false, true}});
  Arrive(0, Frame({empty}));
  EXPECT_TRUE(gather_.Finish().empty());
  empty = cases[3].answer;
  empty.sample_value = -INFINITY;
  Begin(Measured({kExpected[0]}), {{40, 10, 1, true, false, true}});
  Arrive(0, Frame({empty}));
  EXPECT_TRUE(gather_.Finish().empty());
}

TEST_F(PartialGatherTest, AnUncoveredTokenIsAnInternalError) {
  Begin({kExpected[0]}, {{60, 10, 2}});  // nobody was asked for stripe 1
  Arrive(0, Frame({{10, 4, 30, 1}}));
  const auto failures = gather_.Finish();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].node, kNoNode);
  EXPECT_EQ(failures[0].status.code(), absl::StatusCode::kInternal);
  Begin({}, {{60, 10, 0, /*live=*/false}});
  EXPECT_TRUE(gather_.Finish().empty()) << "a row that failed before is not checked again";
}

// Rows 0 and 1 are successive tokens of one sequence over two head cuts, row 2 is another's.
const std::vector<ExpectedPartial> kChunk = {
    {0, ShardId(10), 0, 0, 0, 1, 30, 2}, {1, ShardId(11), 0, 0, 1, 2, 30, 2}, {1, ShardId(20), 2, 0, 0, 2, 40, 1}};
const std::vector<GatherRow> kChunkRows = {{40, 10, 1, true, false}, {41, 11, 1, true, true}, {45, 5, 1, true, false}};

Answer AnswerOfTwo(uint64_t shard, float value) {
  return {.shard = shard, .num_q_heads = 2, .covered = 30, .value = value, .n_q = 2};
}

TEST_F(PartialGatherTest, TheRowsOfAChunkGetTheirOwnPartials) {
  Begin(kChunk, kChunkRows);
  Arrive(1, Frame({AnswerOfTwo(11, 3), {20, 4, 40, 7}}));
  EXPECT_FALSE(gather_.done());
  Arrive(0, Frame({AnswerOfTwo(10, 5)}));
  EXPECT_TRUE(gather_.done());
  EXPECT_TRUE(gather_.Finish().empty());
  EXPECT_EQ(Out(0, 0, 0), 5);
  EXPECT_EQ(Out(1, 0, 1), 6);
  EXPECT_EQ(Out(0, 0, 2), 3);
  EXPECT_EQ(Out(1, 0, 3), 4);
  EXPECT_FLOAT_EQ(Lse(1, 0, 0), 0.6f);
  EXPECT_EQ(Out(2, 0, 0), 7);
}

TEST_F(PartialGatherTest, AChunkFailsAsOneRow) {
  Begin(kChunk, kChunkRows);
  Arrive(1, Frame({AnswerOfTwo(11, 3), {20, 4, 40, 7}}));
  FailNode(0);
  EXPECT_TRUE(gather_.done());
  ASSERT_EQ(gather_.Finish().size(), 1u);
  EXPECT_EQ(gather_.Finish()[0].row, 0u);
  EXPECT_EQ(gather_.Finish()[0].node, 0u);
}

TEST_F(PartialGatherTest, AnAnswerForTooFewQueriesFailsTheChunk) {
  Begin(kChunk, kChunkRows);
  Arrive(0, Frame({{10, 2, 30, 1}}));
  Arrive(1, Frame({{20, 4, 40, 7}}));
  ASSERT_TRUE(gather_.done());
  ASSERT_EQ(gather_.Finish().size(), 1u);
  EXPECT_NE(gather_.Finish()[0].status.message().find("1 queries of 2 heads of 8, asked for 2"), std::string::npos)
      << gather_.Finish()[0].status;
}

TEST_F(PartialGatherTest, TheCoverageOfEachRowOfAChunkIsChecked) {
  std::vector<GatherRow> rows = kChunkRows;
  rows[1].resident_tokens = 10;  // one token is covered by nobody
  Begin(kChunk, rows);
  Arrive(1, Frame({AnswerOfTwo(11, 3), {20, 4, 40, 7}}));
  Arrive(0, Frame({AnswerOfTwo(10, 5)}));
  ASSERT_EQ(gather_.Finish().size(), 1u);
  EXPECT_EQ(gather_.Finish()[0].row, 0u);
}

}  // namespace
}  // namespace tributary
