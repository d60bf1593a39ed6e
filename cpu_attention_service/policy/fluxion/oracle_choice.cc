#include "cpu_attention_service/policy/fluxion/oracle_choice.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "attention/kv/kv_pack.h"

namespace tributary {

void OracleChoice::State::Reset(uint32_t head_dim) {
  max_ln = -std::numeric_limits<double>::infinity();
  sum = 0;
  out.assign(head_dim, 0.0);
}

void OracleChoice::State::Add(double lse_ln, std::span<const float> normalised_out) {
  if (lse_ln == -std::numeric_limits<double>::infinity()) return;
  const double high = std::max(max_ln, lse_ln);
  const double keep = std::exp(max_ln - high), add = std::exp(lse_ln - high);
  sum = sum * keep + add;
  for (size_t d = 0; d < out.size(); ++d) out[d] = out[d] * keep + add * double{normalised_out[d]};
  max_ln = high;
}

std::span<const float> OracleChoice::BlockOut(const Head& head, uint32_t row, uint32_t block) const {
  const uint32_t head_dim = shard_->spec().model.head_dim;
  return std::span(head.out).subspan((size_t{row} * num_blocks_ + block) * head_dim, head_dim);
}

void OracleChoice::StartFrom(uint32_t q_head, State* state) const {
  const uint32_t head_dim = shard_->spec().model.head_dim;
  state->Reset(head_dim);
  if (resident_.out.empty()) return;
  state->Add(double{resident_.lse_ln[q_head]}, resident_.out.subspan(size_t{q_head} * head_dim, head_dim));
}

void OracleChoice::Begin(const ReadRequest& request, uint32_t block_tokens, ConstAttentionPartialView resident) {
  const ShardSpec& spec = shard_->spec();
  const uint32_t head_dim = spec.model.head_dim, group_size = spec.model.group_size();
  const BlockRange blocks = BlocksOf(request.local, block_tokens);
  resident_ = resident;
  num_blocks_ = blocks.size();
  full_.assign(size_t{spec.num_q_heads_held()} * head_dim, 0.0);
  largest_norm_ = 0;
  for (uint32_t kv_head = 0; kv_head < heads_.size(); ++kv_head) {
    Head& head = heads_[kv_head];
    head.lse_ln.resize(size_t{group_size} * num_blocks_);
    head.out.resize(head.lse_ln.size() * head_dim);
    for (uint32_t block = 0; block < num_blocks_; ++block) {
      const uint64_t begin = (uint64_t{blocks.begin} + block) * block_tokens;
      AttendBlock(request, kv_head, block, Intersect(request.local, {begin, begin + block_tokens}));
    }
    for (uint32_t row = 0; row < group_size; ++row) {
      const uint32_t q_head = kv_head * group_size + row;
      StartFrom(q_head, &head.state);
      for (uint32_t block = 0; block < num_blocks_; ++block) {
        head.state.Add(double{head.lse_ln[size_t{row} * num_blocks_ + block]}, BlockOut(head, row, block));
      }
      double norm = 0;
      for (uint32_t d = 0; d < head_dim; ++d) {
        const double value = head.state.out[d] / head.state.sum;
        full_[size_t{q_head} * head_dim + d] = value;
        norm += value * value;
      }
      largest_norm_ = std::max(largest_norm_, std::sqrt(norm));
    }
  }
}

void OracleChoice::AttendBlock(const ReadRequest& request, uint32_t kv_head, uint32_t block, TokenRange tokens) {
  const ShardSpec& spec = shard_->spec();
  const uint32_t head_dim = spec.model.head_dim, group_size = spec.model.group_size();
  Head& head = heads_[kv_head];
  head.k.resize(tokens.size() * head_dim);
  head.v.resize(head.k.size());
  for (uint64_t pos = tokens.begin; pos < tokens.end;) {
    const KvRun run = shard_->RunAt(request.layer, kv_head, pos, tokens.end);
    const size_t at = (pos - tokens.begin) * head_dim;
    UnpackKvToF32(shard_->tile_layout(), run.tiles, run.token_begin, run.num_tokens(), head.k.data() + at,
                  head.v.data() + at);
    pos += run.num_tokens();
  }
  std::vector<float> q(head_dim);
  for (uint32_t row = 0; row < group_size; ++row) {
    const size_t q_head = size_t{kv_head} * group_size + row;
    std::memcpy(q.data(), request.q.data() + q_head * head_dim * sizeof(float), head_dim * sizeof(float));
    head.state.Reset(head_dim);
    for (uint64_t token = 0; token < tokens.size(); ++token) {
      const std::span<const float> k = std::span(head.k).subspan(token * head_dim, head_dim);
      const double score = std::inner_product(k.begin(), k.end(), q.begin(), 0.0) * double{request.softmax_scale};
      head.state.Add(score, std::span(head.v).subspan(token * head_dim, head_dim));
    }
    const size_t i = size_t{row} * num_blocks_ + block;
    head.lse_ln[i] = static_cast<float>(head.state.max_ln + std::log(head.state.sum));
    for (uint32_t d = 0; d < head_dim; ++d) {
      head.out[i * head_dim + d] = static_cast<float>(head.state.out[d] / head.state.sum);
    }
  }
}

uint32_t OracleChoice::NumBlocks(uint32_t kv_head, uint32_t row, const HeadChoice& choice, double target) {
  const ShardSpec& spec = shard_->spec();
  const uint32_t head_dim = spec.model.head_dim;
  const uint32_t q_head = kv_head * spec.model.group_size() + row;
  Head& head = heads_[kv_head];
  const std::span<const float> scores = choice.scores(row);
  head.order.resize(scores.size());
  std::iota(head.order.begin(), head.order.end(), 0u);
  // NaN before every number, as the selections have it.
  const auto key = [&](uint32_t block) { return std::isnan(scores[block]) ? INFINITY : scores[block]; };
  std::stable_sort(head.order.begin(), head.order.end(), [&](uint32_t a, uint32_t b) { return key(a) > key(b); });
  StartFrom(q_head, &head.state);
  const uint32_t num_ragged = choice.num_blocks() - choice.num_whole_blocks();
  for (uint32_t taken = 0;; ++taken) {
    if (taken >= num_ragged) {
      double distance = 0;
      for (uint32_t d = 0; d < head_dim; ++d) {
        const double value = head.state.sum == 0 ? 0.0 : head.state.out[d] / head.state.sum;
        const double difference = value - full_[size_t{q_head} * head_dim + d];
        distance += difference * difference;
      }
      if (std::sqrt(distance) <= target * largest_norm_) return taken - num_ragged;
    }
    if (taken == scores.size()) return choice.num_whole_blocks();
    const uint32_t block = head.order[taken];
    head.state.Add(double{head.lse_ln[size_t{row} * num_blocks_ + block]}, BlockOut(head, row, block));
  }
}

}  // namespace tributary
