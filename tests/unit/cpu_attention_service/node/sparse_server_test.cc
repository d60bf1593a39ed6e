// What a node answers for a shard of policy hgca, frame by frame, against plain selections and f64 attention.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "kv_store/shard_needs.h"
#include "policy/kept_mass.h"
#include "tests/unit/cpu_attention_service/node/sparse_server_fixture.h"

namespace tributary {
namespace {

using testing::AllTokens;
using testing::kScale;
using testing::kShape;
using testing::LayerKv;
using testing::Received;
using testing::ReferenceOver;
using testing::SparseServerTest;
using testing::Tokens;

PolicyRequest Hgca() { return {.name = "hgca", .parameters = {{"keep_min", 4}}}; }

double Kept(const ReferencePartial& sparse, const ReferencePartial& dense, uint32_t h) {
  return std::exp(sparse.lse_ln[h] - dense.lse_ln[h]);
}

// out and lse_ln of the only entry.
std::vector<std::byte> AnswerBytes(const PartialFrameView& view) {
  std::vector<std::byte> bytes;
  for (const auto part : {view.out(view.entry(0)), view.lse_ln(view.entry(0))}) {
    bytes.insert(bytes.end(), part.begin(), part.end());
  }
  return bytes;
}

// The same of its sample.
std::vector<std::byte> SampleBytes(const PartialFrameView& view) {
  std::vector<std::byte> bytes;
  for (const auto part : {view.sample_out(view.entry(0)), view.sample_lse_ln(view.entry(0))}) {
    bytes.insert(bytes.end(), part.begin(), part.end());
  }
  return bytes;
}

TEST_F(SparseServerTest, ReadsWhatItSelectedOfEachBlock) {
  PolicyRequest request = Hgca();
  request.Set("beta", 2);
  OpenSparse(request, 1000);
  for (int block = 0; block < 6; ++block) {
    SpillNext(RandomInt(random_, 1u, 150u), RandomInt(random_, 200u, 400u));
    const std::vector<float> q = RandomQ();
    ExpectOver(Ask(q, stored_), q, selected_);
  }
  EXPECT_LT(selected_[0].size(), stored_) << "something was left out";
  EXPECT_EQ(metrics_.reselection_seconds.count(), 0u);
  EXPECT_EQ(metrics_.selection_seconds.count(), 6u);
  EXPECT_LT(metrics_.attended_tokens.value(), metrics_.covered_tokens.value());
}

TEST_F(SparseServerTest, SeveralQueryTokensReadTheSame) {
  OpenSparse(Hgca(), 1000);
  SpillNext(300, 300);
  const std::vector<float> q = RandomQ(11);
  const PartialFrameView view = Ask(q, stored_, 0, 11);
  for (uint32_t i = 0; i < 11; ++i) ExpectOver(view, q, selected_, i);
}

TEST_F(SparseServerTest, BlocksInAnyOrderAndTwiceGiveTheSameSelection) {
  OpenSparse(Hgca(), 1000);
  constexpr uint32_t kBlock = 64, kBlocks = 8;
  std::vector<std::vector<float>> maw;
  std::vector<uint32_t> order;
  for (uint32_t block = 0; block < kBlocks; ++block) {
    maw.push_back(RandomMaw(kBlock));
    SelectPlainly(block * kBlock, maw.back(), 500);
    order.insert(order.end(), {block, block});
  }
  std::shuffle(order.begin(), order.end(), random_);
  for (const uint32_t block : order) {
    EXPECT_EQ(SpillTokens(block * kBlock, (block + 1) * kBlock, maw[block], 500).status, 0u);
  }
  ASSERT_EQ(stored_, kBlock * kBlocks);
  const std::vector<float> q = RandomQ();
  ExpectOver(Ask(q, stored_), q, selected_);
}

// A spill that the worker does not count on yet is stored, and not read.
TEST_F(SparseServerTest, WhatIsNotVisibleIsNotRead) {
  OpenSparse(Hgca(), 1000);
  SpillNext(200, 300);
  std::vector<Tokens> before = selected_;
  SpillNext(100, 300);
  const std::vector<float> q = RandomQ();
  ExpectOver(Ask(q, 200), q, before);
  for (Tokens& tokens : before) {
    while (!tokens.empty() && tokens.back() >= 77) tokens.pop_back();
  }
  ExpectOver(Ask(q, 77), q, before);
  ExpectOver(Ask(q, stored_), q, selected_);
}

TEST_F(SparseServerTest, BetaZeroIsDenseBitForBit) {
  const std::vector<float> q = RandomQ();
  std::vector<std::byte> dense, sparse;
  LayerKv kv;
  for (const char* name : {"dense", "hgca"}) {
    PolicyRequest request{.name = name};
    if (request.name == "hgca") request.Set("beta", 0);
    OpenSparse(request, 500, request.name == "hgca" ? 2 : 1);
    if (request.name == "dense") kv = kv_;
    kv_ = kv;
    for (uint32_t begin = 0; begin < 500; begin += 100) {
      const std::vector<float> maw = request.name == "dense" ? std::vector<float>() : RandomMaw(100);
      ASSERT_EQ(SpillTokens(begin, begin + 100, maw, 300).status, 0u);
    }
    const PartialFrameView view = Ask(q, 500);
    EXPECT_EQ(view.entry(0).attended_head_tokens, 1000u);
    (request.name == "dense" ? dense : sparse) = AnswerBytes(view);
  }
  EXPECT_EQ(dense, sparse);
}

// The same by saliences: everything passes a tiny threshold.
TEST_F(SparseServerTest, AHeadThatSelectedEverythingReadsTheShard) {
  PolicyRequest request = Hgca();
  request.Set("beta", 1e-30);
  OpenSparse(request, 500);
  const std::vector<float> high(100 * kHeads, 0.5f), low(100 * kHeads, 0.0f);
  ASSERT_EQ(SpillTokens(0, 100, high, 300).status, 0u);
  SelectPlainly(0, high, 300);
  const std::vector<float> q = RandomQ();
  ExpectOver(Ask(q, 100), q, selected_);
  EXPECT_EQ(selected_[1].size(), 100u);
  // A block of which the floor alone is kept: now the caches are filled, with what was selected before, too.
  ASSERT_EQ(SpillTokens(100, 200, low, 300).status, 0u);
  SelectPlainly(100, low, 300);
  ExpectOver(Ask(q, 200), q, selected_);
  EXPECT_EQ(selected_[1].size(), 104u);
  // More than half of the shard's capacity does not fit: all is read.
  for (uint32_t begin = 200; begin < 400; begin += 100) {
    ASSERT_EQ(SpillTokens(begin, begin + 100, high, 300).status, 0u);
  }
  ExpectOver(Ask(q, 400), q, {AllTokens(0, 400), AllTokens(0, 400)});
}

TEST_F(SparseServerTest, WithoutMawTheFirstQueryReadsEverythingAndSelects) {
  PolicyRequest request = Hgca();
  request.Set("beta", 1.5);
  request.Set("group_aggregate", random_() % 2 == 0 ? "max" : "mean");
  OpenSparse(request, 1000);
  ASSERT_EQ(SpillTokens(0, 400, {}, 0).status, 0u);
  SpillNext(50, 300);  // waits for the tokens before it
  const std::vector<float> q = RandomQ();
  const std::vector<Tokens> all(kHeads, AllTokens(0, 450));
  ExpectOver(Ask(q, 450), q, all);
  EXPECT_EQ(metrics_.reselection_seconds.count(), 1u);
  std::vector<Tokens> expected(kHeads);
  for (uint32_t head = 0; head < kHeads; ++head) {
    expected[head] = ExpectedReselection(q, 1, head, 450);
  }
  const std::vector<float> next_q = RandomQ();
  ExpectSelectionNear(Ask(next_q, 450), next_q, expected);
}

TEST_F(SparseServerTest, ADroppedTokenReturnsWhenAnAppendedPromptAttendsToIt) {
  PolicyRequest request = Hgca();
  request.Set("keep_min", 1);
  OpenSparse(request, 600);
  // Token 123 of each head weighs nothing while it is resident, and is what the appended prompt looks for.
  std::vector<float> maw(400 * kHeads, 0.0f);
  for (uint32_t head = 0; head < kHeads; ++head) maw[head] = 1;
  std::vector<float> q = RandomQ(3);
  SetKey(123, q, 6.0f);
  ASSERT_EQ(SpillTokens(0, 400, maw, 400).status, 0u);
  const std::vector<float> other_q = RandomQ();
  ExpectOver(Ask(other_q, 400), other_q, {{0}, {0}});
  const std::vector<Tokens> all(kHeads, AllTokens(0, 400));
  const std::span<const float> first = std::span(q).first(2 * 256);
  const std::span<const float> last = std::span(q).subspan(2 * 256);
  const PartialFrameView two = Ask(first, 400, kQueryAppend, 2);
  ExpectOver(two, first, all, 0);
  ExpectOver(two, first, all, 1);
  EXPECT_EQ(metrics_.append_weights_seconds.count(), 1u) << "weights of a part";
  ExpectOver(Ask(last, 400, kQueryAppend | kQueryAppendEnd), last, all);
  const PartialFrameView view = Ask(other_q, 400, kQueryMeasure);
  EXPECT_LT(view.entry(0).attended_head_tokens, 400u);
  std::vector<Tokens> expected(kHeads);
  for (uint32_t head = 0; head < kHeads; ++head) {
    expected[head] = ExpectedReselection(q, 3, head, 400);
    EXPECT_TRUE(std::binary_search(expected[head].begin(), expected[head].end(), 123u));
  }
  ExpectSelectionNear(view, other_q, expected);
}

// Of an appended prompt that was given up nothing is left.
TEST_F(SparseServerTest, AnAppendedPromptThatDoesNotEndChangesNothing) {
  OpenSparse(Hgca(), 600);
  SpillNext(300, 300);
  const std::vector<float> q = RandomQ();
  Ask(q, 300, kQueryAppend);
  ExpectOver(Ask(q, 300), q, selected_);
  const std::vector<float> last_q = RandomQ();
  Ask(last_q, 300, kQueryAppend | kQueryAppendEnd);
  std::vector<Tokens> expected;
  for (uint32_t head = 0; head < kHeads; ++head) {
    expected.push_back(ExpectedReselection(last_q, 1, head, 300));
  }
  ExpectSelectionNear(Ask(q, 300), q, expected);
}

TEST_F(SparseServerTest, ASampledStepReportsTheTrueKeptMass) {
  OpenSparse(Hgca(), 1000);
  SpillNext(500, 400);
  const std::vector<float> q = RandomQ();
  const PartialFrameView view = Ask(q, stored_, kQueryMeasure);
  ExpectOver(view, q, selected_);
  const PartialEntry entry = view.entry(0);
  ASSERT_EQ(entry.flags, kPartialMeasured);
  for (uint32_t head = 0; head < kHeads; ++head) {
    EXPECT_EQ(ReadAt<uint32_t>(view.attended_tokens(entry), head * 4), selected_[head].size());
    EXPECT_EQ(ReadAt<uint32_t>(view.sampled_tokens(entry), head * 4), stored_);
    const ReferencePartial sparse = ReferenceOver(spec_, kv_, q, head, selected_[head]);
    const ReferencePartial dense = ReferenceOver(spec_, kv_, q, head, AllTokens(0, stored_));
    for (uint32_t h = 0; h < kShape.group_size(); ++h) {
      const size_t row = head * kShape.group_size() + h;
      const auto lse_dense_ln = ReadAt<float>(view.sample_lse_ln(entry), row * 4);
      for (uint32_t d = 0; d < kShape.head_dim; ++d) {
        const auto out = ReadAt<float>(view.sample_out(entry), (row * kShape.head_dim + d) * 4);
        EXPECT_NEAR(out, dense.out[h * kShape.head_dim + d], testing::OutTolerance(spec_));
      }
      const auto lse_ln = ReadAt<float>(view.lse_ln(entry), row * 4);
      EXPECT_NEAR(KeptMass(lse_ln, lse_dense_ln), Kept(sparse, dense, h), 1e-3);
    }
  }
  EXPECT_EQ(metrics_.kept_mass.count(), kShape.num_q_heads);
  // Measuring changes no answer.
  const std::vector<std::byte> measured = AnswerBytes(view);
  const PartialFrameView again = Ask(q, stored_);
  EXPECT_EQ(measured, AnswerBytes(again));
  EXPECT_TRUE(again.sample_lse_ln(again.entry(0)).empty());
}

TEST_F(SparseServerTest, ADenseShardKeepsEverything) {
  OpenSparse({}, 300);
  ASSERT_EQ(SpillTokens(0, 300, {}, 0).status, 0u);
  const std::vector<float> q = RandomQ();
  const PartialFrameView view = Ask(q, 300, kQueryMeasure);
  const PartialEntry entry = view.entry(0);
  EXPECT_EQ(entry.attended_head_tokens, 600u);
  EXPECT_EQ(SampleBytes(view), AnswerBytes(view));
  EXPECT_EQ(ReadAt<uint32_t>(view.attended_tokens(entry), 4), 300u);
  EXPECT_EQ(ReadAt<uint32_t>(view.sampled_tokens(entry), 4), 300u);
  Ask(q, 300, kQueryAppend | kQueryAppendEnd);
}

TEST_F(SparseServerTest, AHeadThatKeptTooLittleReadsEverythingUntilItsSelectionIsGoodAgain) {
  PolicyRequest request = Hgca();
  request.Set("keep_min", 1);
  request.Set("min_kept_mass", 0.5);
  OpenSparse(request, 600);
  // Head 0 selects token 7, head 1 token 8. The first query looks for 7 in both heads, the second for 7 and 8.
  std::vector<float> maw(400 * kHeads, 0.0f);
  maw[7 * kHeads] = maw[8 * kHeads + 1] = 1;
  const std::vector<float> q = SharedQ();
  const std::vector<float> both = SharedQ();
  SetKey(7, q, 8.0f);
  SetKey(8, both, 8.0f, 1);
  AddKey(7, both, 8.0f, 0);
  ASSERT_EQ(SpillTokens(0, 400, maw, 400).status, 0u);
  const std::vector<Tokens> one_each = {{7}, {8}};
  const std::vector<Tokens> fallen_back = {{7}, AllTokens(0, 400)};
  ExpectOver(Ask(q, 400, kQueryMeasure), q, one_each);
  ExpectOver(Ask(q, 400), q, fallen_back);
  const PartialFrameView measured = Ask(q, 400, kQueryMeasure);
  ExpectOver(measured, q, fallen_back);
  const PartialEntry entry = measured.entry(0);
  EXPECT_EQ(ReadAt<uint32_t>(measured.attended_tokens(entry), 4), 400u) << "kept mass is of what was read";
  EXPECT_EQ(ReadAt<uint32_t>(measured.sampled_tokens(entry), 0), 400u);
  EXPECT_EQ(ReadAt<uint32_t>(measured.sampled_tokens(entry), 4), 1u) << "and beside it the selection";
  clock_.AdvanceNs(kNsPerS);
  Settle();
  EXPECT_EQ(metrics_.fallback_heads.value(), 1);
  EXPECT_GT(metrics_.row_cache_bytes.value(), 0);
  ExpectOver(Ask(both, 400, kQueryMeasure), both, fallen_back);
  ExpectOver(Ask(both, 400), both, one_each);
  ASSERT_TRUE(server_->CloseShard(spec_.shard_id, spec_.epoch).ok());
  clock_.AdvanceNs(kNsPerS);
  Settle();
  EXPECT_EQ(metrics_.fallback_heads.value(), 0);
  EXPECT_EQ(metrics_.row_cache_bytes.value(), 0);
}

// The worker says which heads are to be answered by everything, with each query anew; the node remembers nothing.
TEST_F(SparseServerTest, DenseHeadsOfAQueryAreAnsweredByEverything) {
  for (const uint32_t max_cache_tokens : {0u, 40u}) {  // with a limit the weights of what is read are asked for
    PolicyRequest request = Hgca();
    if (max_cache_tokens != 0) request.Set("max_cache_tokens", max_cache_tokens);
    OpenSparse(request, 600, 1 + max_cache_tokens);
    ASSERT_EQ(SpillTokens(0, 400, {}, 0).status, 0u);
    const std::vector<float> q = RandomQ(3);
    Ask(std::span(q).first(256), 400);  // selects
    const PartialFrameView measured = Ask(std::span(q).first(256), 400, kQueryMeasure);
    const std::vector<std::byte> sparse = AnswerBytes(measured), dense = SampleBytes(measured);
    const std::vector<Tokens> all(kHeads, AllTokens(0, 400));
    const PartialFrameView both = Ask(q, 400, kQueryDenseHeads, 3, 0b11);
    for (uint32_t i = 0; i < 3; ++i) ExpectOver(both, q, all, i);
    const uint64_t before = metrics_.kept_mass.count();
    const PartialFrameView one = Ask(std::span(q).first(256), 400, kQueryDenseHeads | kQueryMeasure, 1, 0b10);
    const PartialEntry entry = one.entry(0);
    EXPECT_LT(ReadAt<uint32_t>(one.attended_tokens(entry), 0), 400u);
    EXPECT_EQ(ReadAt<uint32_t>(one.attended_tokens(entry), 4), 400u);
    EXPECT_EQ(ReadAt<uint32_t>(one.sampled_tokens(entry), 0), 400u);
    EXPECT_LT(ReadAt<uint32_t>(one.sampled_tokens(entry), 4), 400u) << "its selection is measured beside it";
    EXPECT_EQ(metrics_.kept_mass.count(), before + kShape.num_q_heads);
    // Head 0 as without dense heads, head 1 the other way round.
    const size_t half = 2 * kShape.head_dim * sizeof(float), out = 2 * half, lse = 2 * sizeof(float);
    const std::vector<std::byte> answer = AnswerBytes(one), sample = SampleBytes(one);
    for (const auto& [actual, first, second] : {std::tie(answer, sparse, dense), std::tie(sample, dense, sparse)}) {
      EXPECT_TRUE(std::equal(actual.begin(), actual.begin() + half, first.begin()));
      EXPECT_TRUE(std::equal(actual.begin() + half, actual.begin() + out, second.begin() + half));
      EXPECT_TRUE(std::equal(actual.begin() + out, actual.begin() + out + lse, first.begin() + out));
      EXPECT_TRUE(std::equal(actual.begin() + out + lse, actual.end(), second.begin() + out + lse));
    }
    EXPECT_EQ(AnswerBytes(Ask(std::span(q).first(256), 400)), sparse) << "nothing is remembered";
  }
}

TEST_F(SparseServerTest, DenseHeadsThatTheShardDoesNotHoldAreRefused) {
  for (const char* name : {"dense", "hgca"}) {
    OpenSparse({.name = name}, 300, name[0] == 'd' ? 1 : 2);
    ASSERT_EQ(SpillTokens(0, 100, {}, 0).status, 0u);
    const std::vector<float> q = RandomQ();
    ExpectOver(Ask(q, 100, kQueryDenseHeads, 1, 0b01), q, {AllTokens(0, 100), AllTokens(0, 100)});
    QueryEntry entry = Entry(spec_, 0, 100);
    entry.flags = kQueryDenseHeads;
    worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({entry}, q, 64, 0b100));
    Settle();
    const Received frame = Take(FrameType::kPartial);
    PartialFrameView view;
    ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
    EXPECT_EQ(view.entry(0).status, static_cast<uint32_t>(FrameError::kMalformed));
  }
}

TEST_F(SparseServerTest, AlwaysDenseHeadsReadEverything) {
  PolicyRequest request = Hgca();
  request.Set("dense_heads", std::vector<LayerHead>{{0, 1}});
  request.Set("dense_layers", std::vector<uint32_t>{1});
  OpenSparse(request, 600);
  SpillNext(300, 300);
  selected_[1] = AllTokens(0, 300);
  const std::vector<float> q = RandomQ();
  ExpectOver(Ask(q, 300), q, selected_);
  ExpectOver(Ask(q, 300, kQueryMeasure), q, selected_);
  EXPECT_EQ(metrics_.kept_mass.count(), kShape.group_size()) << "of the sparse head alone";
}

TEST_F(SparseServerTest, ABoundedCacheStaysWithinItsLimit) {
  PolicyRequest request = Hgca();
  request.Set("beta", 0.01);
  request.Set("max_cache_tokens", 40);
  OpenSparse(request, 1000);
  for (int block = 0; block < 12; ++block) {
    const uint32_t tokens = RandomInt(random_, 1u, 80u);
    ASSERT_EQ(SpillTokens(stored_, stored_ + tokens, RandomMaw(tokens), 300).status, 0u);
    const PartialFrameView view = Ask(RandomQ(), stored_);
    EXPECT_LE(view.entry(0).attended_head_tokens, kHeads * std::min(40u, stored_));
  }
  EXPECT_GT(metrics_.policy_update_seconds.count(), 0u);
}

TEST_F(SparseServerTest, TokensWhoseMawIsNanAreKept) {
  PolicyRequest request = Hgca();
  request.Set("keep_min", 1);
  OpenSparse(request, 300);
  std::vector<float> maw(100 * kHeads, 0.0f);
  maw[0] = maw[1] = 1;
  maw[50 * kHeads + 1] = std::numeric_limits<float>::quiet_NaN();
  ASSERT_EQ(SpillTokens(0, 100, maw, 300).status, 0u);
  const std::vector<float> q = RandomQ();
  ExpectOver(Ask(q, 100), q, {{0}, {0, 50}});
}

TEST_F(SparseServerTest, AHeadThatSelectsNothingAnswersEmpty) {
  PolicyRequest request = Hgca();
  request.Set("keep_min", 0);
  OpenSparse(request, 300);
  ASSERT_EQ(SpillTokens(0, 100, std::vector<float>(100 * kHeads, 0.0f), 300).status, 0u);
  const std::vector<float> q = RandomQ();
  const PartialFrameView view = Ask(q, 100, kQueryMeasure);
  ExpectOver(view, q, {{}, {}});
  EXPECT_TRUE(std::isfinite(ReadAt<float>(view.sample_lse_ln(view.entry(0)), 0)));
}

// Two entries of one shard in one frame: the second is answered by what the first has selected.
TEST_F(SparseServerTest, EntriesOfOneShardInOneFrameFollowEachOther) {
  OpenSparse(Hgca(), 600);
  ASSERT_EQ(SpillTokens(0, 300, {}, 0).status, 0u);
  const std::vector<float> q = RandomQ(2);
  worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({Entry(spec_, 0, 300), Entry(spec_, 0, 300)}, q));
  Settle();
  const Received frame = Take(FrameType::kPartial);
  PartialFrameView view;
  ASSERT_EQ(PartialFrameView::Decode(frame.payload, &view), FrameError::kOk);
  EXPECT_EQ(view.entry(0).attended_head_tokens, 600u);
  EXPECT_LT(view.entry(1).attended_head_tokens, 600u);
}

TEST_F(SparseServerTest, MawForADenseShardIsRefused) {
  OpenSparse({}, 300);
  const AckBody ack = SpillTokens(0, 100, RandomMaw(100), 300);
  EXPECT_EQ(ack.status, static_cast<uint32_t>(FrameError::kMalformed));
  EXPECT_EQ(ack.stored_tokens, 0u);
  EXPECT_EQ(SpillTokens(0, 100, {}, 0).stored_tokens, 100u);
}

TEST_F(SparseServerTest, ThePoolPaysForCachesAndGetsThemBack) {
  const uint64_t before = server_->free_bytes();
  OpenSparse({}, 1000, 1);
  const uint64_t dense = before - server_->free_bytes();
  OpenSparse(Hgca(), 1000, 2);
  const uint64_t sparse = before - dense - server_->free_bytes();
  EXPECT_GT(sparse, dense);
  EXPECT_EQ(sparse, *ShardReservedBytes(spec_, 16 << 10));
  EXPECT_EQ(server_->shards().back().reserved_bytes + server_->shards().front().reserved_bytes, dense + sparse);
  EXPECT_EQ(*server_->OpenShard(spec_, worker_->identity()), sparse) << "again is fine";
  ShardSpec other = spec_;
  other.policy.Set("beta", 3.0);
  EXPECT_EQ(server_->OpenShard(other, worker_->identity()).status().code(), absl::StatusCode::kAlreadyExists)
      << "a policy does not change while the shard lives";
  ASSERT_TRUE(server_->CloseShard(ShardId(2), Epoch(1)).ok());
  EXPECT_EQ(server_->free_bytes(), before - dense);
}

}  // namespace
}  // namespace tributary
