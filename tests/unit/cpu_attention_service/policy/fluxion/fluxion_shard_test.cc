#include "cpu_attention_service/policy/fluxion/fluxion_shard.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "policy/fluxion/query_section.h"
#include "tests/unit/cpu_attention_service/policy/fluxion/fluxion_fixture.h"

namespace tributary {
namespace {

class FluxionShardTest : public testing::FluxionFixture {
 protected:
  uint64_t Attended() const {
    uint64_t tokens = 0;
    for (const HeadRead& head : plan_.answer) tokens += head.NumTokens();
    return tokens;
  }
};

TEST_F(FluxionShardTest, FixedReadsItsBudgetOfEachQueryHead) {
  for (const uint32_t block_tokens : {16u, 32u, 64u, 128u}) {
    Open({{"budget_mode", "fixed"}, {"budget", 0.1}, {"select_block_tokens", block_tokens}}, 3000);
    StoreAll();
    for (const TokenRange local : {TokenRange{0, 2944}, TokenRange{0, 2950}, TokenRange{37, 2999}}) {
      Ask(Request(local));
      const uint64_t first = (local.begin + block_tokens - 1) / block_tokens, last = local.end / block_tokens;
      const uint64_t ragged = local.size() - (last - first) * block_tokens;
      for (const HeadRead& head : plan_.answer) {
        for (uint32_t row = 0; row < kGroup; ++row) {
          uint64_t seen = 0;
          for (size_t i = 0; i < head.pieces.pieces.size(); ++i) {
            seen += static_cast<uint64_t>(std::popcount(head.pieces.row_masks[i * kGroup + row]));
          }
          EXPECT_EQ(seen, ragged + BudgetBlocks(0.1, static_cast<uint32_t>(last - first)) * block_tokens);
        }
      }
    }
  }
}

TEST_F(FluxionShardTest, AWholeBudgetIsDenseBitForBit) {
  Open({{"budget_mode", "fixed"}, {"budget", 1}}, 700);
  StoreAll();
  const TokenRange local{3, 690};
  Ask(Request(local));
  EXPECT_TRUE(IsDense(local));
  EXPECT_EQ(Ask(Request(local, kQueryMeasure)).sample.size(), 2u);
  EXPECT_TRUE(plan_.sample[0].is_untouched && plan_.sample[1].is_untouched) << "there is nothing to judge";
  EXPECT_TRUE(kept_mass_.empty());
}

TEST_F(FluxionShardTest, NothingOneTokenAndLessThanABlock) {
  for (const char* mode : {"fixed", "calibrated", "oracle"}) {
    for (const uint64_t tokens : {0, 1, 63, 64, 65}) {
      Open({{"budget_mode", mode}, {"select_block_tokens", 64}}, tokens);
      if (tokens > 0) StoreAll();
      for (const uint32_t flags : {0u, 0u, kQueryMeasure}) {
        Ask(Request({0, tokens}, flags));
        if (tokens < 64) {
          EXPECT_EQ(Attended(), 2 * tokens) << mode << ": no block is whole";
        }
      }
      if (tokens == 0) {
        EXPECT_EQ(lse_ln_[0], kEmptyLse);
      }
      if (tokens == 65) {
        EXPECT_GE(Attended(), 2u) << mode << ": the tail";
      }
    }
  }
}

TEST_F(FluxionShardTest, CalibratedReadsEverythingOnceThenWhatItNeeds) {
  Open({{"captured_mass", 0.9}, {"min_block_mass", 0}, {"max_budget", 1}, {"select_block_tokens", 16}}, 2000);
  SetKey(777, 0, 1, 1.5f);  // of KV head 0, what query head 1 looks for
  StoreAll();
  const TokenRange local{0, 1984};
  SetSection(14, false);
  Ask(Request(local));
  EXPECT_TRUE(IsDense(local));
  EXPECT_TRUE(policy_->budget(kLayer, 0).is_calibrated());
  Ask(Request(local));
  const HeadRead& head = plan_.answer[0];
  ASSERT_FALSE(head.pieces.pieces.empty());
  bool has_needle = false;
  for (size_t i = 0; i < head.pieces.pieces.size(); ++i) {
    if (head.pieces.pieces[i].tile == 777 / 64)
      has_needle |= (head.pieces.row_masks[i * kGroup + 1] >> 777 % 64 & 1) != 0;
  }
  EXPECT_TRUE(has_needle);
  EXPECT_LT(Attended(), 400u) << "e^14 is resident, and the others have no needle";
  EXPECT_TRUE(plan_.answer[1].IsEmpty());
  EXPECT_EQ(lse_ln_[kGroup], kEmptyLse);
}

TEST_F(FluxionShardTest, WithoutASectionNoHeadIsWithoutBlocks) {
  Open({{"captured_mass", 0.5}, {"min_block_mass", 0}, {"max_budget", 1}}, 2000);
  StoreAll();
  const TokenRange local{0, 1984};
  Ask(Request(local));
  Ask(Request(local));
  for (const HeadRead& head : plan_.answer) EXPECT_GT(head.NumTokens(), 0u);
  EXPECT_LT(Attended(), 2 * local.size());
}

TEST_F(FluxionShardTest, TheUnionOfAGroupIsReadOnceAndEachHeadSeesItsOwn) {
  Open({{"budget_mode", "fixed"}, {"budget", 0.1}}, 2000);
  StoreAll();
  const TokenRange local{0, 2000};
  Ask(Request(local));
  for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
    const ReferencePartial expected = Exact(h, Seen(h / kGroup, h % kGroup));
    EXPECT_NEAR(lse_ln_[h], expected.lse_ln[0], 1e-4);
    for (uint32_t d = 0; d < kShape.head_dim; ++d) {
      EXPECT_NEAR(out_[h * kShape.head_dim + d], expected.out[d], testing::OutTolerance(spec_));
    }
  }
}

TEST_F(FluxionShardTest, WithoutSectionsAMeasuredMissOfTheShardRaisesTheBudget) {
  Open({{"captured_mass", 0.3},
        {"min_block_mass", 0},
        {"max_budget", 0.05},
        {"select_block_tokens", 16},
        {"target_output_error", 0.01}},
       2000);
  StoreAll();
  const TokenRange local{0, 1984};
  Ask(Request(local));
  const uint64_t before = (Ask(Request(local)), Attended());
  Ask(Request(local, kQueryMeasure));
  EXPECT_EQ(Attended(), before) << "a measured query is answered as if it were not measured";
  EXPECT_EQ(kept_mass_.size(), kShape.num_q_heads);
  for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
    EXPECT_GT(policy_->budget(kLayer, h).raise(), 1);
    EXPECT_NEAR(kept_mass_[h], std::exp(lse_ln_[h] - sample_lse_ln_[h]), 1e-5);
  }
  Ask(Request(local));
  EXPECT_GT(Attended(), before);
}

TEST_F(FluxionShardTest, TheErrorOfTheMergedOutputMovesTheBudgetsOnce) {
  Open({{"captured_mass", 0.3}, {"max_budget", 0.05}, {"target_output_error", 0.01}}, 2000);
  StoreAll();
  const TokenRange local{0, 1984};
  const auto raise = [&] { return policy_->budget(kLayer, 4).raise(); };
  SetSection({.lse_ln = -20});
  Ask(Request(local));
  SetSection({.lse_ln = -20, .has_out = true});
  Ask(Request(local, kQueryMeasure));
  EXPECT_EQ(raise(), 1) << "what this shard alone would be wrong by says nothing of the merge";
  SetSection({.lse_ln = -20, .error_number = 3, .error = 0.02f});
  Ask(Request(local));
  EXPECT_EQ(raise(), 1.5f);
  Ask(Request(local));
  EXPECT_EQ(raise(), 1.5f) << "the same measurement again";
  SetSection({.lse_ln = -20, .error_number = 2, .error = 0.02f});
  Ask(Request(local));
  EXPECT_EQ(raise(), 1.5f) << "an older one";
  SetSection({.lse_ln = -20, .error_number = 4, .error = 0.005f});
  Ask(Request(local));
  EXPECT_NEAR(raise(), 1.5f * 0.98f, 1e-6);
  SetSection({.lse_ln = -20, .error_number = 5, .error = NAN});
  Ask(Request(local));
  EXPECT_NEAR(raise(), 1.5f * 0.98f * 1.5f, 1e-6) << "NaN is a miss";
}

TEST_F(FluxionShardTest, MeasuredQueriesShowTheContrast) {
  Open({{"select_block_tokens", 16}}, 2000);
  StoreAll();
  const TokenRange local{0, 1984};
  SetSection({.lse_ln = -20});
  Ask(Request(local));
  SetSection({.lse_ln = -20, .has_out = true});
  const float assumed = policy_->budget(kLayer, 0).contrast();
  Ask(Request(local, kQueryMeasure));
  // The window's output is 0 and weighs nothing: the contrast is |o_full| over the largest of them.
  double largest = 0;
  std::vector<double> norms(kShape.num_q_heads);
  std::vector<uint64_t> all(local.end);
  std::iota(all.begin(), all.end(), uint64_t{0});
  for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
    const ReferencePartial exact = Exact(h, all);
    for (uint32_t d = 0; d < kShape.head_dim; ++d) norms[h] += double{exact.out[d]} * double{exact.out[d]};
    norms[h] = std::sqrt(norms[h]);
    largest = std::max(largest, norms[h]);
  }
  for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
    EXPECT_NEAR(policy_->budget(kLayer, h).contrast(), norms[h] / largest, 1e-3);
  }
  EXPECT_NE(policy_->budget(kLayer, 0).contrast(), assumed);
}

TEST_F(FluxionShardTest, PredictorReadsWhatTheQuerySaysOfEachHead) {
  for (const uint32_t block_tokens : {16u, 32u, 128u}) {
    Open({{"budget_mode", "predictor"}, {"max_budget", 1}, {"select_block_tokens", block_tokens}}, 3000);
    StoreAll();
    const TokenRange local{0, 2944};
    const std::vector<PredictedBudget> budgets = {{0.1f, 0.02f}, {}, {0.5f, 0}, {}, {}, {}};
    SetSection({.budgets = budgets});
    Ask(Request(local));
    const auto size_idx = static_cast<uint32_t>(std::countr_zero(block_tokens / 16));
    for (uint32_t row = 0; row < kGroup; ++row) {
      const double share = ShareOf(budgets[row], size_idx);
      const uint32_t blocks = share == 0 ? 0 : BudgetBlocks(share, 2944 / block_tokens);
      EXPECT_EQ(Seen(0, row).size(), blocks * block_tokens) << "row " << row << ", blocks of " << block_tokens;
    }
    EXPECT_TRUE(plan_.answer[1].IsEmpty()) << "streaming heads read nothing";
  }
}

TEST_F(FluxionShardTest, PredictorWithoutBudgetsReadsEverythingAndNanIsAll) {
  Open({{"budget_mode", "predictor"}, {"max_budget", 1}}, 2000);
  StoreAll();
  const TokenRange local{0, 1984};
  Ask(Request(local));
  EXPECT_TRUE(IsDense(local));
  SetSection({.budgets = std::vector<PredictedBudget>(kShape.num_q_heads, {NAN, NAN})});
  Ask(Request(local));
  EXPECT_TRUE(IsDense(local));
}

TEST_F(FluxionShardTest, PredictorTakesTheSizeWithTheFewestBytesAndKeepsToMaxBudget) {
  Open({{"budget_mode", "predictor"}, {"max_budget", 0.05}}, 8000);
  StoreAll();
  const TokenRange local{0, 7936};
  SetSection({.budgets = {{0.01f, 1}, {}, {}, {0.01f, 0}, {}, {}}});
  Ask(Request(local));
  EXPECT_EQ(policy_->block_tokens(kLayer, 0), 16u) << "what it needs grows with the size";
  EXPECT_EQ(policy_->block_tokens(kLayer, 1), 128u) << "it does not";
  SetSection({.budgets = std::vector<PredictedBudget>(kShape.num_q_heads, {0.9f, 0})});
  Ask(Request(local));
  EXPECT_LE(Seen(0, 0).size(), BudgetBlocks(0.05, 7936 / 16) * 16 + 128);
}

TEST_F(FluxionShardTest, AMissedStreamingHeadReadsALittle) {
  Open({{"budget_mode", "predictor"}, {"target_output_error", 0.1}}, 8000);
  StoreAll();
  const TokenRange local{0, 7936};
  const std::vector<PredictedBudget> none(kShape.num_q_heads);
  SetSection({.budgets = none});
  Ask(Request(local));
  EXPECT_EQ(Attended(), 0u);
  SetSection({.budgets = none, .error_number = 1, .error = 0.5f});
  Ask(Request(local));
  EXPECT_GT(Attended(), 0u);
  EXPECT_LT(Attended(), local.size() / 10);
}

TEST_F(FluxionShardTest, AHeadThatKeptTooLittleReadsEverythingUntilItKeepsEnough) {
  Open({{"budget_mode", "fixed"}, {"budget", 0.01}, {"min_kept_mass", 0.5}}, 2000);
  SetKey(100, 0, 0, 3);
  SetKey(100, 1, 0, 3);
  StoreAll();
  const TokenRange local{0, 1984};
  Ask(Request(local, kQueryMeasure));
  EXPECT_LT(Attended(), local.size());
  EXPECT_EQ(fallback_->num_heads(), 2u) << "rows 1 and 2 look for nothing";
  Ask(Request(local));
  EXPECT_TRUE(IsDense(local));
  // All rows look for the token now.
  for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
    std::copy_n(q_.begin() + h / kGroup * kGroup * kShape.head_dim, kShape.head_dim, q_.begin() + h * kShape.head_dim);
  }
  Ask(Request(local, kQueryMeasure));
  EXPECT_TRUE(IsDense(local)) << "as if it were not measured";
  EXPECT_LT(plan_.sample[0].NumTokens(), local.size()) << "the selection is measured beside it";
  EXPECT_EQ(fallback_->num_heads(), 0u);
  Ask(Request(local));
  EXPECT_LT(Attended(), local.size());
}

TEST_F(FluxionShardTest, AlwaysDenseHeadsAndAppendedPromptsReadEverything) {
  Open({{"budget_mode", "fixed"}, {"dense_heads", std::vector<LayerHead>{{kLayer, 1}}}}, 2000);
  StoreAll();
  const TokenRange local{0, 1984};
  Ask(Request(local));
  EXPECT_EQ(plan_.answer[1].tokens, local);
  EXPECT_TRUE(plan_.answer[0].tokens.empty());
  Ask(Request(local, kQueryAppend | kQueryAppendEnd));
  EXPECT_TRUE(IsDense(local));
}

TEST_F(FluxionShardTest, AnAppendedPromptCalibrates) {
  Open({{"max_budget", 0.1}}, 2000);
  StoreAll();
  const TokenRange local{0, 1984};
  ReadRequest request = Request(local, kQueryAppend);
  std::vector<float> two(q_);
  two.insert(two.end(), q_.begin(), q_.end());
  request.n_q = 2;
  request.q = std::as_bytes(std::span(two));
  Ask(request);
  EXPECT_TRUE(IsDense(local));
  EXPECT_TRUE(policy_->budget(kLayer, 5).is_calibrated());
  Ask(Request(local));
  EXPECT_FALSE(IsDense(local));
}

TEST_F(FluxionShardTest, WhatIsAppendedIsScoredToo) {
  Open({{"budget_mode", "fixed"}, {"budget", 0.02}, {"select_block_tokens", 16}}, 2000);
  SetKey(1500, 0, 0, 3);
  const size_t row_bytes = kShape.num_kv_heads * kShape.head_dim * sizeof(float);
  for (const auto& [begin, end] : {std::pair<uint32_t, uint32_t>{0, 1000}, {1000, 1010}, {1010, 2000}}) {
    const KvExchangeRows rows{std::span(kv_.k).subspan(begin * row_bytes, (end - begin) * row_bytes),
                              std::span(kv_.v).subspan(begin * row_bytes, (end - begin) * row_bytes), DType::kF32,
                              DType::kF32};
    ASSERT_TRUE(shard_->Store(kLayer, begin, end - begin, rows).ok());
    Ask(Request({0, end}));
    EXPECT_LT(Attended(), end);
  }
  const auto& pieces = plan_.answer[0].pieces.pieces;
  EXPECT_TRUE(std::any_of(pieces.begin(), pieces.end(), [](const ReadPiece& piece) {
    return piece.tile == 1500 / 64 && (piece.token_mask >> 1500 % 64 & 1) != 0;
  }));
}

TEST_F(FluxionShardTest, TheBlockSizeIsThatWithTheFewestBytes) {
  Open({{"captured_mass", 0.5}, {"max_budget", 1}}, 4000);
  StoreAll();
  const TokenRange local{0, 3968};
  SetSection(30, false);  // nothing is read: the coarsest summaries cost least
  Ask(Request(local));
  Ask(Request(local));
  EXPECT_EQ(Attended(), 0u);
  EXPECT_EQ(policy_->block_tokens(kLayer, 0), 128u);
}

TEST_F(FluxionShardTest, NanIsReadAndShows) {
  Open({{"max_budget", 0.1}}, 2000);
  reinterpret_cast<float*>(kv_.k.data())[333 * 128] = NAN;
  StoreAll();
  const TokenRange local{0, 1984};
  Ask(Request(local));
  Ask(Request(local));
  EXPECT_TRUE(std::isnan(lse_ln_[0]));
  q_[0] = INFINITY;
  SetSection(NAN, true);
  Ask(Request(local, kQueryMeasure));
}

TEST_F(FluxionShardTest, SectionsOfOtherSizesAreRefused) {
  for (const char* mode : {"fixed", "calibrated", "oracle"}) {
    Open({{"budget_mode", mode}}, 100);
    StoreAll();
    const bool has_section = std::strcmp(mode, "fixed") != 0, is_oracle = std::strcmp(mode, "oracle") == 0;
    for (const uint32_t flags : {0u, kQueryMeasure, kQueryAppend}) {
      const bool has_out = is_oracle || flags == kQueryMeasure;
      SetSection({.has_out = has_out});
      const std::vector<std::byte> whole = section_;
      const size_t expected = whole.size();
      for (size_t bytes = 0; bytes <= expected + 8; ++bytes) {
        section_ = whole;
        section_.resize(bytes);
        const bool fits = bytes == 0 || (has_section && flags != kQueryAppend && bytes == expected);
        EXPECT_EQ(policy_->CheckQuery(Request({0, 100}, flags)) == FrameError::kOk, fits) << mode << " " << bytes;
      }
    }
    section_.assign(4, std::byte{0});
    EXPECT_EQ(policy_->CheckSpill(1, section_), FrameError::kMalformed);
    EXPECT_EQ(policy_->CheckSpill(1, {}), FrameError::kOk);
    section_.clear();
  }
}

}  // namespace
}  // namespace tributary
