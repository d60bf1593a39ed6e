#include "cpu_attention_service/policy/delta/delta_shard.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "attention/reference.h"
#include "cpu_attention_service/policy/shard_fallback.h"
#include "gtest/gtest.h"
#include "policy/policy_registry.h"
#include "tests/unit/cpu_attention_service/node/test_shard.h"
#include "wire/frame.h"

namespace tributary {
namespace {

using testing::LayerKv;
using testing::MakeSpec;
using testing::RandomFloats;
using testing::RandomLayerKv;
using testing::RowsOf;
using testing::TestPool;

constexpr AttentionShape kShape{6, 2, 64};
constexpr uint32_t kGroup = 3, kLayer = 1;
constexpr float kScale = 0.125f;

class DeltaShardTest : public ::testing::Test {
 protected:
  void Open(std::vector<NamedValue> parameters, uint64_t num_tokens, DType dtype = DType::kF32) {
    const auto policy = ResolvePolicy({.name = "delta", .parameters = std::move(parameters)},
                                      {.num_layers = 2, .num_kv_heads = kShape.num_kv_heads});
    ASSERT_TRUE(policy.ok()) << policy.status();
    spec_ = MakeSpec(1, kShape, std::max<uint64_t>(num_tokens, 1), dtype);
    spec_.policy = *policy;
    delta_.reset();
    shard_.reset();
    shard_ = *KvShard::Open(spec_, pool_.get());
    const std::unique_ptr<const AttentionPolicy> rules = MakePolicy(spec_.policy);
    for (const uint32_t bits : rules->needs().key_code_bits) ASSERT_TRUE(shard_->KeepCodes({bits}).ok());
    delta_ = std::make_unique<DeltaShard>(shard_.get());
    fallback_.emplace(spec_);
    kv_ = RandomLayerKv(spec_, static_cast<uint32_t>(num_tokens), random_);
    q_ = RandomFloats(kShape.num_q_heads * kShape.head_dim, random_, 2.0f);
  }
  void StoreAll() {
    const auto tokens = static_cast<uint32_t>(spec_.capacity_tokens);
    ASSERT_TRUE(shard_->Store(kLayer, 0, tokens, RowsOf(spec_, kv_)).ok());
  }
  void StoreTokens(TokenRange tokens) {
    const size_t row_bytes = kShape.num_kv_heads * kShape.head_dim * sizeof(float);
    KvExchangeRows rows = RowsOf(spec_, kv_);
    rows.k = rows.k.subspan(tokens.begin * row_bytes, tokens.size() * row_bytes);
    rows.v = rows.v.subspan(tokens.begin * row_bytes, tokens.size() * row_bytes);
    ASSERT_TRUE(shard_->Store(kLayer, tokens.begin, static_cast<uint32_t>(tokens.size()), rows).ok());
  }
  float* KeyAt(uint64_t token, uint32_t kv_head) {
    return reinterpret_cast<float*>(kv_.k.data()) + (token * kShape.num_kv_heads + kv_head) * kShape.head_dim;
  }
  // Makes the token's key look like what the head's queries look for.
  void SetKey(uint64_t token, uint32_t kv_head, uint32_t row, float factor) {
    const float* const q = q_.data() + (kv_head * kGroup + row) * kShape.head_dim;
    for (uint32_t d = 0; d < kShape.head_dim; ++d) KeyAt(token, kv_head)[d] = factor * q[d];
  }
  ReadRequest Request(TokenRange local, uint32_t flags = 0) {
    return {
        .layer = kLayer, .local = local, .flags = flags, .softmax_scale = kScale, .q = std::as_bytes(std::span(q_))};
  }
  // A query as the node asks it: out and lse_ln of the answer are left in out_ and lse_ln_.
  const ReadPlan& Ask(const ReadRequest& request) {
    EXPECT_EQ(delta_->CheckQuery(request), FrameError::kOk);
    delta_->PlanRead(request, &plan_);
    for (uint32_t head = 0; plan_.plans_heads && head < kShape.num_kv_heads; ++head) {
      delta_->PlanHead(request, head, &plan_);
    }
    fallback_->CompletePlan(request, &plan_);
    Attend(request, plan_.answer, &out_, &lse_ln_);
    if (request.is_measured()) {
      std::vector<float> sample_out;
      Attend(request, plan_.sample, &sample_out, &sample_lse_ln_);
      kept_mass_.clear();
      fallback_->OnSampled(request, plan_, {{out_, lse_ln_}, {sample_out, sample_lse_ln_}}, &kept_mass_);
    }
    return plan_;
  }
  void Attend(const ReadRequest& request, std::span<const HeadRead> heads, std::vector<float>* out,
              std::vector<float>* lse_ln) {
    out->assign(size_t{request.n_q} * kShape.num_q_heads * kShape.head_dim, 0);
    lse_ln->assign(size_t{request.n_q} * kShape.num_q_heads, 0);
    const ShardQuery query{.shard = shard_.get(),
                           .layer = request.layer,
                           .local = request.local,
                           .n_q = request.n_q,
                           .q = request.q,
                           .partial = {*out, *lse_ln},
                           .heads = heads};
    executor_.Execute(std::span(&query, 1), kScale);
  }
  // Tokens that the row of a head sees, ascending.
  std::vector<uint64_t> Seen(uint32_t kv_head, uint32_t row) const {
    const PieceList& list = plan_.answer[kv_head].pieces;
    std::vector<uint64_t> tokens;
    for (size_t i = 0; i < list.pieces.size(); ++i) {
      for (uint64_t t = 0; t < 64; ++t) {
        if ((list.row_masks[i * kGroup + row] >> t & 1) != 0) tokens.push_back(list.pieces[i].tile * 64 + t);
      }
    }
    return tokens;
  }
  // f64 attention of query head h over `tokens`.
  ReferencePartial Exact(uint32_t h, std::span<const uint64_t> tokens) const {
    std::vector<std::byte> k, v;
    const size_t bytes = kShape.head_dim * sizeof(float);
    for (const uint64_t token : tokens) {
      const size_t at = (token * kShape.num_kv_heads + h / kGroup) * bytes;
      k.insert(k.end(), kv_.k.begin() + static_cast<ptrdiff_t>(at), kv_.k.begin() + static_cast<ptrdiff_t>(at + bytes));
      v.insert(v.end(), kv_.v.begin() + static_cast<ptrdiff_t>(at), kv_.v.begin() + static_cast<ptrdiff_t>(at + bytes));
    }
    return ReferenceAttention({.shape = {1, 1, kShape.head_dim},
                               .softmax_scale = kScale,
                               .q = std::span(q_).subspan(h * kShape.head_dim, kShape.head_dim),
                               .k = k,
                               .v = v});
  }
  bool IsDense(TokenRange local) const {
    return std::all_of(plan_.answer.begin(), plan_.answer.end(),
                       [&](const HeadRead& head) { return head.tokens == local && head.pieces.pieces.empty(); });
  }

  const uint64_t seed_ = testing::TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, ::testing::Message() << "seed " << seed_};
  TestPool pool_{32u << 20, 64 << 10};
  ShardSpec spec_;
  std::unique_ptr<KvShard> shard_;
  std::unique_ptr<DeltaShard> delta_;
  std::optional<ShardFallback> fallback_;
  LayerKv kv_;
  std::vector<float> q_;
  ReadPlan plan_;
  std::vector<float> out_, lse_ln_, sample_lse_ln_, kept_mass_;
  ShardExecutor executor_{{}};
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
