// A shard of a policy with random KV in it, and the queries that a node asks of it.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attention/reference.h"
#include "cpu_attention_service/executor/shard_executor.h"
#include "cpu_attention_service/policy/shard_fallback.h"
#include "gtest/gtest.h"
#include "policy/policy_registry.h"
#include "tests/unit/cpu_attention_service/node/test_shard.h"
#include "wire/frame.h"

namespace tributary::testing {

// Shard: the policy's class, which is made of a shard that keeps what the policy needs.
template <typename Shard>
class ShardPolicyFixture : public ::testing::Test {
 protected:
  explicit ShardPolicyFixture(std::string_view policy_name) : policy_name_(policy_name) {}

  static constexpr AttentionShape kShape{6, 2, 64};
  static constexpr uint32_t kGroup = 3, kLayer = 1;
  static constexpr float kScale = 0.125f;

  void Open(std::vector<NamedValue> parameters, uint64_t num_tokens, DType dtype = DType::kF32) {
    const auto policy = ResolvePolicy({.name = policy_name_, .parameters = std::move(parameters)},
                                      {.num_layers = 2, .num_kv_heads = kShape.num_kv_heads});
    ASSERT_TRUE(policy.ok()) << policy.status();
    spec_ = MakeSpec(1, kShape, std::max<uint64_t>(num_tokens, 1), dtype);
    spec_.policy = *policy;
    policy_.reset();
    shard_.reset();
    shard_ = *KvShard::Open(spec_, pool_.get());
    const std::unique_ptr<const AttentionPolicy> rules = MakePolicy(spec_.policy);
    for (const BlockSummaryOptions& options : rules->needs().block_summaries) {
      const absl::Status kept = shard_->KeepSummaries(options);
      ASSERT_TRUE(kept.ok()) << kept;
    }
    for (const uint32_t bits : rules->needs().key_code_bits) {
      const absl::Status kept = shard_->KeepCodes({bits});
      ASSERT_TRUE(kept.ok()) << kept;
    }
    policy_ = std::make_unique<Shard>(shard_.get());
    fallback_.emplace(spec_);
    kv_ = RandomLayerKv(spec_, static_cast<uint32_t>(num_tokens), random_);
    q_ = RandomFloats(kShape.num_q_heads * kShape.head_dim, random_, 2.0f);
  }
  void StoreAll() {
    const auto tokens = static_cast<uint32_t>(spec_.capacity_tokens);
    ASSERT_TRUE(shard_->Store(kLayer, 0, tokens, RowsOf(spec_, kv_)).ok());
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
    return {.layer = kLayer,
            .local = local,
            .flags = flags,
            .softmax_scale = kScale,
            .q = std::as_bytes(std::span(q_)),
            .section = section_};
  }
  // A query as the node asks it: out and lse_ln of the answer are left in out_ and lse_ln_.
  const ReadPlan& Ask(const ReadRequest& request) {
    EXPECT_EQ(policy_->CheckQuery(request), FrameError::kOk);
    policy_->PlanRead(request, &plan_);
    for (uint32_t head = 0; plan_.plans_heads && head < kShape.num_kv_heads; ++head) {
      policy_->PlanHead(request, head, &plan_);
    }
    fallback_->CompletePlan(request, &plan_);
    Attend(request, plan_.answer, &out_, &lse_ln_);
    if (request.is_measured()) {
      sample_out_ = out_;  // where the plan has no other
      sample_lse_ln_ = lse_ln_;
      AttendInto(request, plan_.sample, sample_out_, sample_lse_ln_);
      kept_mass_.clear();
      const SampledPartials partials{{out_, lse_ln_}, {sample_out_, sample_lse_ln_}};
      fallback_->OnSampled(request, plan_, partials, &kept_mass_);
      policy_->OnSampled(request, plan_, partials);
    }
    policy_->WritePartial(request, plan_, {out_, lse_ln_}, {});
    return plan_;
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

  const std::string policy_name_;
  const uint64_t seed_ = TestSeed();
  std::mt19937_64 random_{seed_};
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  TestPool pool_{32u << 20, 64 << 10};
  ShardSpec spec_;
  std::unique_ptr<KvShard> shard_;
  std::unique_ptr<Shard> policy_;
  std::optional<ShardFallback> fallback_;
  LayerKv kv_;
  std::vector<float> q_;
  std::vector<std::byte> section_;
  ReadPlan plan_;
  std::vector<float> out_, lse_ln_, sample_out_, sample_lse_ln_, kept_mass_;

 private:
  void Attend(const ReadRequest& request, std::span<const HeadRead> heads, std::vector<float>* out,
              std::vector<float>* lse_ln) {
    out->assign(size_t{request.n_q} * kShape.num_q_heads * kShape.head_dim, 0);
    lse_ln->assign(size_t{request.n_q} * kShape.num_q_heads, 0);
    AttendInto(request, heads, *out, *lse_ln);
  }
  void AttendInto(const ReadRequest& request, std::span<const HeadRead> heads, std::span<float> out,
                  std::span<float> lse_ln) {
    const ShardQuery query{.shard = shard_.get(),
                           .layer = request.layer,
                           .local = request.local,
                           .n_q = request.n_q,
                           .q = request.q,
                           .partial = {out, lse_ln},
                           .heads = heads};
    executor_.Execute(std::span(&query, 1), kScale);
  }
  ShardExecutor executor_{{}};
};

}  // namespace tributary::testing
