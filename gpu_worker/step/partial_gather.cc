#include "gpu_worker/step/partial_gather.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <tuple>

#include "base/check.h"
#include "fmt/format.h"

namespace tributary {

void PartialGather::Begin(uint64_t step_id, uint32_t layer, std::span<const ExpectedPartial> expected,
                          std::span<const GatherRow> rows, PartialSlots* slots) {
  active_ = true;
  step_id_ = step_id;
  layer_ = layer;
  slots_ = slots;
  expected_.assign(expected.begin(), expected.end());
  std::sort(expected_.begin(), expected_.end(), [](const ExpectedPartial& a, const ExpectedPartial& b) {
    return std::tie(a.node, a.shard) < std::tie(b.node, b.shard);
  });
  states_.assign(expected_.size(), EntryState::kWaiting);
  covered_.assign(expected_.size(), 0);
  rows_.assign(rows.begin(), rows.end());
  row_failed_.assign(rows.size(), false);
  if (coverage_.size() < rows.size()) coverage_.resize(rows.size());
  failures_.clear();
  num_missing_ = static_cast<uint32_t>(expected_.size());
  ClearSlots(rows);
}

void PartialGather::ClearSlots(std::span<const GatherRow> rows) {
  for (size_t row = 0; row < rows.size(); ++row) {
    TRIBUTARY_CHECK_LE(rows[row].num_slots, slots_->max_slots);
    const size_t begin = row * slots_->max_slots * shape_.num_q_heads;
    std::fill_n(slots_->lse_ln.begin() + begin, size_t{rows[row].num_slots} * shape_.num_q_heads, kEmptyLse);
    if (!rows[row].measured) continue;
    const size_t slot = row * slots_->max_slots;
    const size_t slots_end = slot + rows[row].num_slots;
    if (sample_lse_ln_.size() < slots_end * shape_.num_q_heads) {
      sample_out_.resize(slots_end * shape_.num_q_heads * shape_.head_dim);
      sample_lse_ln_.resize(slots_end * shape_.num_q_heads);
      attended_tokens_.resize(slots_end * shape_.num_kv_heads);
      sampled_tokens_.resize(slots_end * shape_.num_kv_heads);
    }
    std::fill_n(sample_lse_ln_.begin() + begin, size_t{rows[row].num_slots} * shape_.num_q_heads, kEmptyLse);
    for (std::vector<uint32_t>* tokens : {&attended_tokens_, &sampled_tokens_}) {
      std::fill_n(tokens->begin() + slot * shape_.num_kv_heads, size_t{rows[row].num_slots} * shape_.num_kv_heads, 0u);
    }
  }
}

Arrival PartialGather::Take(NodeIdx node, const PartialFrameView& partial, const PartialEntry& entry,
                            const ExpectedPartial** out) {
  const auto key = std::make_pair(node, ShardId(entry.shard_id));
  const auto it = std::lower_bound(
      expected_.begin(), expected_.end(), key,
      [](const ExpectedPartial& e, const auto& k) { return std::tie(e.node, e.shard) < std::tie(k.first, k.second); });
  if (it == expected_.end() || it->node != node || it->shard != key.second) return Arrival::kUnexpected;
  const size_t i = it - expected_.begin();
  if (states_[i] != EntryState::kWaiting) return Arrival::kLate;
  *out = &*it;
  if (absl::Status status = CheckEntry(*it, partial, entry); !status.ok()) {
    FailRow(it->row, node, status);
    return Arrival::kTaken;
  }
  CopyOut(*it, partial, entry);
  covered_[i] = entry.covered_tokens;
  states_[i] = EntryState::kArrived;
  --num_missing_;
  return Arrival::kTaken;
}

absl::Status PartialGather::CheckEntry(const ExpectedPartial& expected, const PartialFrameView& partial,
                                       const PartialEntry& entry) const {
  const auto error = static_cast<FrameError>(entry.status);
  if (error == FrameError::kCorruptKv) {
    return absl::DataLossError(
        fmt::format("layer {}: shard {} no longer has the bytes that were stored, in tile {} of its KV head {}; the "
                    "sequence must be stored anew, and its host's memory looked at",
                    layer_, expected.shard.value, entry.covered_tokens, entry.num_kv_heads));
  }
  if (error != FrameError::kOk) {
    return absl::InternalError(fmt::format("layer {}: shard {} refused the query: {}", layer_, expected.shard.value,
                                           std::string(FrameErrorName(error))));
  }
  const uint32_t num_kv_heads = expected.kv_head_end - expected.kv_head_begin;
  const uint32_t num_q_heads = num_kv_heads * shape_.group_size();
  if (partial.body().head_dim != shape_.head_dim || entry.num_q_heads != num_q_heads ||
      entry.n_q != expected.num_rows) {
    return absl::InternalError(
        fmt::format("layer {}: shard {} answered with {} queries of {} heads of {}, asked for {} of {} of {}", layer_,
                    expected.shard.value, entry.n_q, entry.num_q_heads, partial.body().head_dim, expected.num_rows,
                    num_q_heads, shape_.head_dim));
  }
  if (entry.covered_tokens != expected.tokens) {
    return absl::InternalError(fmt::format("layer {}: shard {} covers {} tokens, was asked for {}", layer_,
                                           expected.shard.value, entry.covered_tokens, expected.tokens));
  }
  if (entry.attended_head_tokens > expected.tokens * num_kv_heads) {
    return absl::InternalError(fmt::format("layer {}: shard {} attended to {} tokens, summed over {} heads of {}",
                                           layer_, expected.shard.value, entry.attended_head_tokens, num_kv_heads,
                                           expected.tokens));
  }
  if (entry.policy_bytes > expected.max_section_bytes) {
    return absl::InternalError(fmt::format("layer {}: shard {} answered with {} bytes for the policy, which takes {}",
                                           layer_, expected.shard.value, entry.policy_bytes,
                                           expected.max_section_bytes));
  }
  const std::span<const std::byte> lse_bytes = partial.lse_ln(entry);
  for (size_t head = 0; head < size_t{expected.num_rows} * num_q_heads; ++head) {
    const auto lse_ln = ReadAt<float>(lse_bytes, head * sizeof(float));
    // It covers tokens; only where a policy left some out may a head have read none.
    const bool may_be_empty = entry.attended_head_tokens < expected.tokens * num_kv_heads;
    if (!std::isfinite(lse_ln) && !(may_be_empty && lse_ln == kEmptyLse)) {
      return absl::InternalError(
          fmt::format("layer {}: shard {} answered with lse_ln {}", layer_, expected.shard.value, lse_ln));
    }
  }
  return CheckMeasured(expected, partial, entry);
}

absl::Status PartialGather::CheckMeasured(const ExpectedPartial& expected, const PartialFrameView& partial,
                                          const PartialEntry& entry) const {
  const uint32_t num_kv_heads = expected.kv_head_end - expected.kv_head_begin;
  const bool is_measured = (entry.flags & kPartialMeasured) != 0;
  if (is_measured != expected.measured || entry.num_kv_heads != num_kv_heads) {
    return absl::InternalError(fmt::format("layer {}: shard {} answered for {} KV heads, {}, asked for {}, {}", layer_,
                                           expected.shard.value, entry.num_kv_heads,
                                           is_measured ? "measured" : "not measured", num_kv_heads,
                                           expected.measured ? "measured" : "not measured"));
  }
  if (!is_measured) return absl::OkStatus();
  const std::span<const std::byte> answer = partial.lse_ln(entry), sample = partial.sample_lse_ln(entry);
  for (uint32_t head = 0; head < entry.num_q_heads; ++head) {
    const size_t kv_head_at = head / shape_.group_size() * sizeof(uint32_t);
    const bool answer_is_dense = ReadAt<uint32_t>(partial.attended_tokens(entry), kv_head_at) == entry.covered_tokens;
    const auto answer_ln = ReadAt<float>(answer, head * sizeof(float));
    const auto sample_ln = ReadAt<float>(sample, head * sizeof(float));
    const float dense_ln = answer_is_dense ? answer_ln : sample_ln, sparse_ln = answer_is_dense ? sample_ln : answer_ln;
    // Everything is some tokens; a selection may be none.
    if (std::isfinite(dense_ln) && (std::isfinite(sparse_ln) || sparse_ln == kEmptyLse)) continue;
    return absl::InternalError(
        fmt::format("layer {}: shard {} measured a dense lse_ln of {}, and {} of what it selects", layer_,
                    expected.shard.value, dense_ln, sparse_ln));
  }
  return absl::OkStatus();
}

void PartialGather::CopyOut(const ExpectedPartial& expected, const PartialFrameView& partial,
                            const PartialEntry& entry) {
  const size_t out_bytes = partial.out(entry).size() / expected.num_rows;
  const size_t lse_bytes = partial.lse_ln(entry).size() / expected.num_rows;
  for (uint32_t i = 0; i < expected.num_rows; ++i) {
    const size_t slot = (size_t{expected.row} + i) * slots_->max_slots + expected.slot;
    const size_t head = slot * shape_.num_q_heads + size_t{expected.kv_head_begin} * shape_.group_size();
    std::memcpy(slots_->out.data() + head * shape_.head_dim, partial.out(entry).data() + i * out_bytes, out_bytes);
    std::memcpy(slots_->lse_ln.data() + head, partial.lse_ln(entry).data() + i * lse_bytes, lse_bytes);
  }
  if (expected.measured) CopySample(expected, partial, entry);
}

// A measured row asks alone.
void PartialGather::CopySample(const ExpectedPartial& expected, const PartialFrameView& partial,
                               const PartialEntry& entry) {
  TRIBUTARY_CHECK_EQ(expected.num_rows, 1u);
  const size_t slot = size_t{expected.row} * slots_->max_slots + expected.slot;
  const size_t head = slot * shape_.num_q_heads + size_t{expected.kv_head_begin} * shape_.group_size();
  const size_t kv_head = slot * shape_.num_kv_heads + expected.kv_head_begin;
  const auto copy = [](std::span<const std::byte> from, void* to) { std::memcpy(to, from.data(), from.size()); };
  copy(partial.sample_out(entry), sample_out_.data() + head * shape_.head_dim);
  copy(partial.sample_lse_ln(entry), sample_lse_ln_.data() + head);
  copy(partial.attended_tokens(entry), attended_tokens_.data() + kv_head);
  copy(partial.sampled_tokens(entry), sampled_tokens_.data() + kv_head);
}

MeasuredLayer PartialGather::measured(uint32_t row) const {
  TRIBUTARY_CHECK(rows_[row].measured);
  const size_t slot = size_t{row} * slots_->max_slots;
  const size_t num_slots = rows_[row].num_slots;
  const size_t heads = slot * shape_.num_q_heads, num_heads = num_slots * shape_.num_q_heads;
  const size_t kv_heads = slot * shape_.num_kv_heads, num_kv_heads = num_slots * shape_.num_kv_heads;
  const auto partials = [&](std::span<const float> out, std::span<const float> lse_ln) {
    return ConstAttentionPartialView{out.subspan(heads * shape_.head_dim, num_heads * shape_.head_dim),
                                     lse_ln.subspan(heads, num_heads)};
  };
  return {.layer = layer_,
          .remote_tokens = rows_[row].context_tokens - rows_[row].resident_tokens,
          .num_slots = rows_[row].num_slots,
          .resident = {},
          .answer = partials(slots_->out, slots_->lse_ln),
          .sample = partials(sample_out_, sample_lse_ln_),
          .attended_tokens = std::span(attended_tokens_).subspan(kv_heads, num_kv_heads),
          .sampled_tokens = std::span(sampled_tokens_).subspan(kv_heads, num_kv_heads)};
}

void PartialGather::DropRow(const RowFailure& failure) {
  if (row_failed_[failure.row]) return;
  row_failed_[failure.row] = true;
  failures_.push_back(failure);
  for (size_t i = 0; i < expected_.size(); ++i) {
    if (expected_[i].row != failure.row || states_[i] == EntryState::kDropped) continue;
    if (states_[i] == EntryState::kWaiting) --num_missing_;
    states_[i] = EntryState::kDropped;
  }
}

std::vector<ExpectedPartial> PartialGather::EndMove(std::span<const ShardId> shards) {
  std::vector<size_t> order(expected_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::tie(expected_[a].node, expected_[a].shard) < std::tie(expected_[b].node, expected_[b].shard);
  });
  const std::vector<ExpectedPartial> expected = std::move(expected_);
  const std::vector<EntryState> states = std::move(states_);
  const std::vector<uint64_t> covered = std::move(covered_);
  expected_.clear();
  states_.clear();
  covered_.clear();
  std::vector<ExpectedPartial> to_ask;
  for (const size_t i : order) {
    expected_.push_back(expected[i]);
    states_.push_back(states[i]);
    covered_.push_back(covered[i]);
    const bool moved = std::find(shards.begin(), shards.end(), expected[i].shard) != shards.end();
    if (moved && states[i] == EntryState::kWaiting) to_ask.push_back(expected[i]);
  }
  return to_ask;
}

std::span<const RowFailure> PartialGather::Finish() {
  TRIBUTARY_CHECK(done());
  active_ = false;
  for (size_t row = 0; row < rows_.size(); ++row) coverage_[row].clear();
  for (size_t i = 0; i < expected_.size(); ++i) {
    const ExpectedPartial& e = expected_[i];
    if (states_[i] != EntryState::kArrived) continue;
    for (uint32_t q = 0; q < e.num_rows; ++q)
      coverage_[e.row + q].push_back({e.kv_head_begin, e.kv_head_end, covered_[i]});
  }
  uint32_t asking_row = 0;
  for (uint32_t row = 0; row < rows_.size(); ++row) {
    if (!rows_[row].follows) asking_row = row;
    if (row_failed_[asking_row] || !rows_[row].live) continue;
    absl::Status status =
        CheckCoverage(rows_[row].context_tokens, rows_[row].resident_tokens, shape_.num_kv_heads, coverage_[row]);
    if (!status.ok()) FailRow(asking_row, kNoNode, status);
  }
  return failures_;
}

}  // namespace tributary
