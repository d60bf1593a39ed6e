// A node's core with a shard of policy hgca, and the truth about it: which tokens each KV head should have selected,
// and the f64 attention over those.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "policy/hgca/hgca.h"
#include "policy/hgca/spill_section.h"
#include "tests/unit/cpu_attention_service/node/attention_server_fixture.h"
#include "tests/unit/policy/plain_selection.h"

namespace tributary::testing {

// Tokens of one KV head.
using Tokens = std::vector<uint32_t>;

// Of the query heads of one KV head, over the given tokens of a layer.
inline ReferencePartial ReferenceOver(const ShardSpec& spec, const LayerKv& kv, std::span<const float> q,
                                      uint32_t kv_head, const Tokens& tokens) {
  const size_t row_bytes = spec.model.head_dim * DTypeBytes(spec.k_dtype);
  const size_t heads = spec.num_kv_heads_held();
  std::vector<std::byte> k, v;
  for (const uint32_t token : tokens) {
    const size_t at = (token * heads + kv_head) * row_bytes;
    k.insert(k.end(), kv.k.begin() + static_cast<ptrdiff_t>(at), kv.k.begin() + static_cast<ptrdiff_t>(at + row_bytes));
    v.insert(v.end(), kv.v.begin() + static_cast<ptrdiff_t>(at), kv.v.begin() + static_cast<ptrdiff_t>(at + row_bytes));
  }
  ReferenceInput input;
  input.shape = {spec.model.group_size(), 1, spec.model.head_dim};
  input.softmax_scale = kScale;
  const size_t group_floats = size_t{spec.model.group_size()} * spec.model.head_dim;
  input.q = q.subspan(kv_head * group_floats, group_floats);
  input.k = k;
  input.v = v;
  input.k_dtype = spec.k_dtype;
  input.v_dtype = spec.v_dtype;
  return ReferenceAttention(input);
}

inline Tokens AllTokens(uint32_t begin, uint32_t end) {
  Tokens tokens;
  for (uint32_t token = begin; token < end; ++token) tokens.push_back(token);
  return tokens;
}

class SparseServerTest : public AttentionServerTest {
 protected:
  static constexpr uint32_t kHeads = 2;

  // A shard whose tokens' KV is known before it is stored.
  void OpenSparse(const PolicyRequest& request, uint32_t num_tokens, uint64_t id = 1) {
    spec_ = MakeSpec(id, kShape, num_tokens);
    absl::StatusOr<PolicyParams> policy = ResolvePolicy(request, {});
    ASSERT_TRUE(policy.ok()) << policy.status();
    spec_.policy = *policy;
    policy_.reset();
    if (policy->name() == "hgca") policy_.emplace(ReadHgcaParams(spec_.policy), ReadSparseParams(spec_.policy));
    const absl::StatusOr<uint64_t> opened = server_->OpenShard(spec_, worker_->identity());
    ASSERT_TRUE(opened.ok()) << opened.status();
    kv_ = RandomLayerKv(spec_, num_tokens, random_);
    selected_.assign(kHeads, {});
    stored_ = 0;
  }

  std::vector<float> RandomMaw(uint32_t num_tokens) { return RandomSalience(random_, size_t{num_tokens} * kHeads); }

  // maw: [token][KV head]; empty: none travels.
  AckBody SpillTokens(uint32_t begin, uint32_t end, std::span<const float> maw, uint32_t resident_tokens,
                      const ShardSpec* spec = nullptr) {
    if (spec == nullptr) spec = &spec_;
    std::vector<std::byte> payload = SpillPayload(*spec, kv_, begin, end);
    if (!maw.empty()) {
      std::vector<std::byte> section(HgcaSpillSectionBytes(end - begin, kHeads));
      const auto bytes = std::as_bytes(maw);
      std::copy(bytes.begin(), bytes.end(), BeginHgcaSpillSection(resident_tokens, section).begin());
      auto body = ReadAt<SpillBody>(payload, 0);
      body.policy_bytes = static_cast<uint32_t>(section.size());
      std::memcpy(payload.data(), &body, sizeof(body));
      payload.resize(PaddedBytes(payload.size()));
      payload.insert(payload.end(), section.begin(), section.end());
    }
    worker_->Send(worker_->Header(FrameType::kSpill), payload);
    Settle();
    AckBody ack;
    EXPECT_EQ(DecodeAck(Take(FrameType::kAck).payload, &ack), FrameError::kOk);
    stored_ = std::max<uint32_t>(stored_, static_cast<uint32_t>(ack.stored_tokens));
    return ack;
  }

  // Spills the next block, and selects of it as the definition says. keep_next is 0 here.
  void SpillNext(uint32_t num_tokens, uint32_t resident_tokens) {
    const std::vector<float> maw = RandomMaw(num_tokens);
    const uint32_t begin = stored_;
    ASSERT_EQ(SpillTokens(begin, begin + num_tokens, maw, resident_tokens).status, 0u);
    SelectPlainly(begin, maw, resident_tokens);
  }

  void SelectPlainly(uint32_t begin, std::span<const float> maw, uint32_t resident_tokens) {
    const SelectionRule rule = *policy_->RuleAt(HgcaMoment::kSpill, resident_tokens);
    for (uint32_t head = 0; head < kHeads; ++head) {
      std::vector<float> salience;
      for (size_t i = head; i < maw.size(); i += kHeads) salience.push_back(maw[i]);
      for (const uint32_t offset : PlainSelection(rule, salience)) {
        selected_[head].push_back(begin + offset);
      }
    }
  }

  // The answer to one query over tokens [0, end). `dense_heads`: bits of KV heads, if the flags have kQueryDenseHeads.
  PartialFrameView Ask(std::span<const float> q, uint32_t end, uint32_t flags = 0, uint32_t n_q = 1,
                       uint32_t dense_heads = 0) {
    QueryEntry entry = Entry(spec_, 0, end, n_q);
    entry.flags = flags;
    worker_->Send(worker_->Header(FrameType::kQuery), QueryPayload({entry}, q, 64, dense_heads));
    Settle();
    answer_ = Take(FrameType::kPartial);
    PartialFrameView view;
    EXPECT_EQ(PartialFrameView::Decode(answer_.payload, &view), FrameError::kOk);
    EXPECT_EQ(view.entry(0).status, 0u);
    EXPECT_EQ(view.entry(0).covered_tokens, end);
    return view;
  }

  // Each KV head rests on these tokens.
  void ExpectOver(const PartialFrameView& view, std::span<const float> q, const std::vector<Tokens>& tokens,
                  uint32_t query = 0) {
    const PartialEntry entry = view.entry(0);
    const uint32_t group = kShape.group_size(), dim = kShape.head_dim;
    const size_t first_row = size_t{query} * kShape.num_q_heads;
    uint64_t attended = 0;
    for (uint32_t head = 0; head < kHeads; ++head) {
      attended += tokens[head].size();
      const ReferencePartial expected = ReferenceOver(spec_, kv_, q.subspan(first_row * dim), head, tokens[head]);
      for (uint32_t h = 0; h < group; ++h) {
        const size_t row = first_row + head * group + h;
        const auto lse_ln = ReadAt<float>(view.lse_ln(entry), row * 4);
        if (tokens[head].empty()) {
          EXPECT_EQ(lse_ln, kEmptyLse);
        } else {
          // Where q and K are large, q.k is less exact (docs/numerics.md).
          ASSERT_NEAR(lse_ln, expected.lse_ln[h], 1e-4 + 5e-5 * std::abs(expected.lse_ln[h])) << "head " << head;
        }
        for (uint32_t d = 0; d < dim; ++d) {
          ASSERT_NEAR(ReadAt<float>(view.out(entry), (row * dim + d) * 4), expected.out[h * dim + d],
                      OutTolerance(spec_))
              << "head " << head;
        }
      }
    }
    EXPECT_EQ(entry.attended_head_tokens, attended);
  }

  // What the rule keeps of tokens [0, end) by the mean weights of n_q queries; as f64 says, so that a token on the very
  // threshold may be on the other side of it.
  Tokens ExpectedReselection(std::span<const float> q, uint32_t n_q, uint32_t kv_head, uint32_t end) {
    const std::vector<double> weights = MeanWeights(q, n_q, kv_head, end);
    const SelectionRule rule = *policy_->RuleAt(HgcaMoment::kAppend, end);
    return PlainSelection(rule, {weights.begin(), weights.end()});
  }

  std::vector<double> MeanWeights(std::span<const float> q, uint32_t n_q, uint32_t kv_head, uint32_t end) {
    const uint32_t group = kShape.group_size();
    const size_t query_floats = size_t{kShape.num_q_heads} * kShape.head_dim;
    std::vector<double> mean(end, 0.0);
    for (uint32_t i = 0; i < n_q; ++i) {
      const std::span<const float> query = q.subspan(i * query_floats, query_floats);
      const ReferencePartial all = ReferenceOver(spec_, kv_, query, kv_head, AllTokens(0, end));
      for (uint32_t token = 0; token < end; ++token) {
        // The lse over a token alone is its score.
        const ReferencePartial one = ReferenceOver(spec_, kv_, query, kv_head, {token});
        double a = 0;
        for (uint32_t h = 0; h < group; ++h) {
          const double weight = std::exp(one.lse_ln[h] - all.lse_ln[h]);
          const bool max = ReadHgcaParams(spec_.policy).group_aggregate == GroupAggregate::kMax;
          a = max ? std::max(a, weight) : a + weight / group;
        }
        mean[token] += a / n_q;
      }
    }
    return mean;
  }

  // As ExpectOver, but a few tokens may have fallen to the other side of the threshold: then lse and counts are near.
  void ExpectSelectionNear(const PartialFrameView& view, std::span<const float> q, const std::vector<Tokens>& tokens) {
    const PartialEntry entry = view.entry(0);
    if (entry.attended_head_tokens == tokens[0].size() + tokens[1].size()) {
      return ExpectOver(view, q, tokens);
    }
    EXPECT_NEAR(static_cast<double>(entry.attended_head_tokens),
                static_cast<double>(tokens[0].size() + tokens[1].size()), 2);
  }

  // The query heads of a KV head ask for the same.
  std::vector<float> SharedQ() {
    std::vector<float> q = RandomQ();
    const size_t dim = kShape.head_dim, group_floats = dim * kShape.group_size();
    for (size_t i = 0; i < q.size(); ++i) q[i] = q[i / group_floats * group_floats + i % dim];
    return q;
  }

  // The key of a token points where the query heads of one KV head, or of all, look.
  void SetKey(uint32_t token, std::span<const float> q, float length, uint32_t kv_head = ~uint32_t{0}) {
    WriteKey(token, q, length, kv_head, false);
  }
  void AddKey(uint32_t token, std::span<const float> q, float length, uint32_t kv_head) {
    WriteKey(token, q, length, kv_head, true);
  }

  void WriteKey(uint32_t token, std::span<const float> q, float length, uint32_t only_head, bool add) {
    const uint32_t dim = kShape.head_dim, group = kShape.group_size();
    for (uint32_t head = 0; head < kHeads; ++head) {
      if (only_head != ~uint32_t{0} && only_head != head) continue;
      std::vector<float> key(dim), row(dim);
      std::byte* stored = kv_.k.data() + (size_t{token} * kHeads + head) * dim * 2;
      ConvertToF32(DType::kBf16, stored, dim, row.data());
      for (size_t first = head * group * dim; first < q.size(); first += size_t{kShape.num_q_heads} * dim) {
        for (uint32_t i = 0; i < group * dim; ++i) key[i % dim] += q[first + i];
      }
      for (uint32_t d = 0; d < dim; ++d) key[d] = key[d] * length / 2 + (add ? row[d] : 0.0f);
      ConvertFromF32(DType::kBf16, key.data(), dim, stored);
    }
  }

  ShardSpec spec_;
  std::optional<HgcaPolicy> policy_;  // of a shard whose policy it is
  LayerKv kv_;
  std::vector<Tokens> selected_;  // [KV head]
  uint32_t stored_ = 0;
  Received answer_;
};

}  // namespace tributary::testing
