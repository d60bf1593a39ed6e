#include "cpu_attention_service/policy/delta/delta_shard.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/unit/cpu_attention_service/policy/shard_policy_fixture.h"
#include "wire/frame.h"

namespace tributary {
namespace {

using testing::RowsOf;

class DeltaShardTest : public testing::ShardPolicyFixture<DeltaShard> {
 protected:
  DeltaShardTest() : ShardPolicyFixture("delta") {}

  void StoreTokens(TokenRange tokens) {
    const size_t row_bytes = kShape.num_kv_heads * kShape.head_dim * sizeof(float);
    KvExchangeRows rows = RowsOf(spec_, kv_);
    rows.k = rows.k.subspan(tokens.begin * row_bytes, tokens.size() * row_bytes);
    rows.v = rows.v.subspan(tokens.begin * row_bytes, tokens.size() * row_bytes);
    ASSERT_TRUE(shard_->Store(kLayer, tokens.begin, static_cast<uint32_t>(tokens.size()), rows).ok());
  }
};

TEST_F(DeltaShardTest, EachQueryHeadReadsItsShareAndWhatIsNotCoded) {
  for (const uint32_t bits : {1u, 2u, 4u}) {
    Open({{"max_share", 0.02}, {"delta_nats", 0}, {"key_code_bits", bits}}, 3000);
    StoreAll();
    for (const TokenRange local : {TokenRange{0, 2944}, TokenRange{0, 2950}, TokenRange{37, 2999}}) {
      Ask(Request(local));
      const uint64_t coded_end = local.end / 64 * 64;
      const auto share = static_cast<uint64_t>(std::ceil(0.02 * static_cast<double>(local.size())));
      for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
        const std::vector<uint64_t> seen = Seen(h / kGroup, h % kGroup);
        ASSERT_EQ(seen.size(), share + local.end - coded_end);
        EXPECT_TRUE(local.Contains({seen.front(), seen.back() + 1}));
        for (uint64_t token = coded_end; token < local.end; ++token) {
          EXPECT_TRUE(std::binary_search(seen.begin(), seen.end(), token));
        }
      }
    }
  }
}

TEST_F(DeltaShardTest, TheAnswerIsExactAttentionOverWhatEachHeadSees) {
  Open({{"max_share", 0.05}}, 2000);
  StoreAll();
  Ask(Request({0, 2000}));
  for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
    const std::vector<uint64_t> seen = Seen(h / kGroup, h % kGroup);
    ASSERT_FALSE(seen.empty());
    const ReferencePartial expected = Exact(h, seen);
    EXPECT_NEAR(lse_ln_[h], expected.lse_ln[0], 1e-4);
    for (uint32_t d = 0; d < kShape.head_dim; ++d) {
      EXPECT_NEAR(out_[h * kShape.head_dim + d], expected.out[d], testing::OutTolerance(spec_));
    }
  }
}

TEST_F(DeltaShardTest, ATokenThatOneHeadLooksForIsFoundByIt) {
  Open({}, 2000);
  SetKey(777, 0, 1, 1.5f);
  StoreAll();
  Ask(Request({0, 1984}));
  const std::vector<uint64_t> seen = Seen(0, 1);
  EXPECT_TRUE(std::find(seen.begin(), seen.end(), 777u) != seen.end());
  EXPECT_LT(seen.size(), 10u) << "no other is within 8 nats of it";
  EXPECT_EQ(Seen(1, 1).size(), 20u);
}

TEST_F(DeltaShardTest, EverythingIsDenseBitForBit) {
  for (const TokenRange local : {TokenRange{3, 690}, TokenRange{0, 640}}) {
    Open({{"max_share", 1}, {"delta_nats", 0}}, 700);
    StoreAll();
    EXPECT_EQ(shard_->FindCodes({2}), nullptr) << "nobody would read them";
    Ask(Request(local));
    EXPECT_TRUE(IsDense(local));
    Ask(Request(local, kQueryMeasure));
    EXPECT_TRUE(kept_mass_.empty()) << "nothing was left out";
    Open({{"max_share", 1}, {"delta_nats", 1000}}, 700);  // by way of the codes
    StoreAll();
    Ask(Request(local));
    EXPECT_TRUE(IsDense(local));
  }
}

TEST_F(DeltaShardTest, FewTokensAndPromptsReadEverything) {
  for (const uint64_t tokens : {0, 1, 63, 64, 65}) {
    Open({}, tokens);
    if (tokens > 0) StoreAll();
    for (const uint32_t flags : {0u, kQueryMeasure}) {
      const ReadPlan& plan = Ask(Request({0, tokens}, flags));
      for (const HeadRead& head : plan.answer) {
        if (tokens < 64) {
          EXPECT_EQ(head.NumTokens(), tokens);
        } else {
          EXPECT_LE(head.NumTokens(), 3 + tokens - 64);
        }
      }
    }
    if (tokens == 0) {
      EXPECT_EQ(lse_ln_[0], kEmptyLse);
    }
  }
  Open({}, 1000);
  StoreAll();
  Ask(Request({0, 1000}, kQueryAppend));
  EXPECT_TRUE(IsDense({0, 1000}));
}

TEST_F(DeltaShardTest, WhatIsStoredLaterChangesNothing) {
  Open({}, 2000);
  StoreTokens({0, 1500});
  Ask(Request({0, 1490}));
  const std::vector<float> before = out_;
  StoreTokens({1500, 2000});
  Ask(Request({0, 1490}));
  EXPECT_EQ(out_, before);
}

TEST_F(DeltaShardTest, AMeasuredQueryReportsTheKeptMassAndMayFallBack) {
  Open({{"max_share", 0.001}, {"min_kept_mass", 0.9}, {"quality_sample_rate", 1}}, 2000);
  StoreAll();
  const TokenRange local{0, 1984};
  Ask(Request(local, kQueryMeasure));
  ASSERT_EQ(kept_mass_.size(), kShape.num_q_heads);
  std::vector<uint64_t> all(local.size());
  for (uint64_t token = 0; token < all.size(); ++token) all[token] = token;
  for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
    const double full = Exact(h, all).lse_ln[0];
    EXPECT_NEAR(sample_lse_ln_[h], full, 1e-4);
    EXPECT_NEAR(kept_mass_[h], std::exp(Exact(h, Seen(h / kGroup, h % kGroup)).lse_ln[0] - full), 1e-4);
  }
  EXPECT_EQ(fallback_->num_heads(), 2u);
  Ask(Request(local));
  EXPECT_TRUE(IsDense(local));
}

TEST_F(DeltaShardTest, AKeyThatIsNotANumberIsSeen) {
  Open({{"max_share", 0.01}}, 2000);
  KeyAt(900, 0)[3] = std::numeric_limits<float>::quiet_NaN();
  StoreAll();
  Ask(Request({0, 1984}));
  for (uint32_t h = 0; h < kGroup; ++h) EXPECT_TRUE(std::isnan(lse_ln_[h]));
  EXPECT_FALSE(std::isnan(lse_ln_[kGroup]));
}

TEST_F(DeltaShardTest, ADenseLayerIsDense) {
  Open({{"dense_layers", std::vector<uint32_t>{kLayer}}}, 1000);
  StoreAll();
  Ask(Request({0, 1000}));
  EXPECT_TRUE(IsDense({0, 1000}));
}

}  // namespace
}  // namespace tributary
