#include "cpu_attention_service/policy/hgca/hgca_shard.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "cpu_attention_service/policy/shard_policy_seats.h"
#include "kv_store/shard_needs.h"
#include "policy/hgca/maw.h"
#include "policy/hgca/spill_section.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

// The rows of a selection whose tokens lie in `local`.
TokenRange RowsIn(std::span<const uint32_t> tokens, TokenRange local) {
  const auto row_of = [&](uint64_t token) {
    return static_cast<uint64_t>(std::lower_bound(tokens.begin(), tokens.end(), token) - tokens.begin());
  };
  return {local.begin == 0 ? 0 : row_of(local.begin), row_of(local.end)};
}

}  // namespace

HgcaShard::HgcaShard(const KvShard* shard, std::unique_ptr<RowCache> cache)
    : shard_(shard),
      params_(ReadHgcaParams(shard->spec().policy)),
      policy_(params_, ReadSparseParams(shard->spec().policy)),
      cache_(std::move(cache)) {
  TRIBUTARY_CHECK(cache_ != nullptr);
  const ShardSpec& spec = shard->spec();
  const uint32_t num_heads = spec.num_kv_heads_held();
  layers_.reserve(spec.num_layers_held());
  for (uint32_t layer = spec.layer_begin; layer < spec.layer_end; ++layer) {
    Layer& state = layers_.emplace_back(num_heads);
    for (uint32_t head = 0; head < num_heads; ++head) {
      if (!cache_->Has(layer, head)) continue;
      state.heads[head].emplace(params_.keep_next);
      state.has_sparse_heads = true;
    }
  }
  row_weights_.resize(num_heads);
}

const HeadSelection* HgcaShard::selection(uint32_t layer, uint32_t kv_head) const {
  const auto& head = layers_[layer - shard_->spec().layer_begin].heads[kv_head];
  return head.has_value() ? &*head : nullptr;
}

// ---- stored blocks ----

FrameError HgcaShard::CheckSpill(uint32_t num_tokens, std::span<const std::byte> section) const {
  HgcaSpillSection decoded;
  const bool is_sound = DecodeHgcaSpillSection(section, num_tokens, shard_->spec().num_kv_heads_held(), &decoded);
  return is_sound ? FrameError::kOk : FrameError::kMalformed;
}

void HgcaShard::OnStored(uint32_t layer, TokenRange local, std::span<const std::byte> section) {
  Layer& state = LayerOf(layer);
  HgcaSpillSection decoded;
  TRIBUTARY_CHECK(DecodeHgcaSpillSection(section, static_cast<uint32_t>(local.size()),
                                         shard_->spec().num_kv_heads_held(), &decoded));
  if (decoded.maw.empty() || !state.has_sparse_heads || local.end <= state.judged_tokens) return;
  Maw& waiting = state.waiting[local.begin];
  waiting.values.resize(decoded.maw.size() / sizeof(float));
  std::memcpy(waiting.values.data(), decoded.maw.data(), decoded.maw.size());
  waiting.resident_tokens = decoded.resident_tokens;
  waiting.num_tokens = local.size();
}

// Blocks may come in any order, and twice. Not before a query sees them: whether a selection fits the cache, and so
// what is read, may not depend on when a block came.
bool HgcaShard::JudgeWaiting(uint32_t layer, uint64_t visible_end) {
  Layer& state = LayerOf(layer);
  bool has_judged = false;
  while (!state.waiting.empty()) {
    const auto first = state.waiting.begin();
    if (first->first > state.judged_tokens || first->first >= visible_end) break;
    has_judged = true;
    const uint64_t end = first->first + first->second.num_tokens;
    if (end > state.judged_tokens) {
      JudgeBlock(layer, first->second, state.judged_tokens - first->first);
      state.judged_tokens = end;
    }
    state.waiting.erase(first);
  }
  return has_judged;
}

void HgcaShard::JudgeBlock(uint32_t layer, const Maw& maw, uint64_t first_row) {
  Layer& state = LayerOf(layer);
  const size_t num_heads = state.heads.size();
  const std::optional<SelectionRule> rule = policy_.RuleAt(HgcaMoment::kSpill, maw.resident_tokens);
  TRIBUTARY_CHECK(rule.has_value());
  for (uint32_t head = 0; head < num_heads; ++head) {
    if (!state.heads[head].has_value()) continue;
    block_maw_.clear();
    for (uint64_t row = first_row; row < maw.num_tokens; ++row) {
      block_maw_.push_back(maw.values[row * num_heads + head]);
    }
    state.heads[head]->OnSpill(*rule, block_maw_, maw.resident_tokens);
    Distil(layer, head);
    FillCache(layer, head);
  }
}

void HgcaShard::Distil(uint32_t layer, uint32_t kv_head) {
  HeadSelection& selection = *LayerOf(layer).heads[kv_head];
  if (selection.tokens().empty()) return;
  const std::optional<SelectionRule> rule = policy_.RuleAt(HgcaMoment::kCacheFull, selection.tokens().size());
  if (!rule.has_value()) return;
  const std::span<const uint32_t> kept = selection.Distil(*rule);
  // The newest may not be in the cache yet.
  const uint64_t num_cached = cache_->num_rows(layer, kv_head);
  const auto end = std::lower_bound(kept.begin(), kept.end(), num_cached);
  cache_->Keep(layer, kv_head, kept.first(static_cast<size_t>(end - kept.begin())));
}

// Brings the rows of the cache up to the selection, or gives them up where they would not be read.
void HgcaShard::FillCache(uint32_t layer, uint32_t kv_head) {
  const HeadSelection& selection = *LayerOf(layer).heads[kv_head];
  const std::span<const uint32_t> tokens = selection.tokens();
  if (tokens.size() == selection.num_seen()) return;  // everything: the shard itself is read
  if (tokens.size() > cache_->capacity_rows()) {
    cache_->Clear(layer, kv_head);
    return;
  }
  cache_->Append(*shard_, layer, kv_head, tokens.subspan(cache_->num_rows(layer, kv_head)));
}

// ---- queries ----

bool HgcaShard::ReadsCache(uint32_t layer, uint32_t kv_head) const {
  const HeadSelection* head = selection(layer, kv_head);
  if (head == nullptr || head->tokens().size() == head->num_seen()) return false;
  return cache_->num_rows(layer, kv_head) == head->tokens().size();
}

void HgcaShard::PlanRead(const ReadRequest& request, ReadPlan* plan) {
  Layer& state = LayerOf(request.layer);
  const TokenRange local = request.local;
  ResetToDense(request, static_cast<uint32_t>(state.heads.size()), plan);
  plan->max_over_group = params_.group_aggregate == GroupAggregate::kMax;
  if (local.empty()) return;
  const bool is_append = (request.flags & kQueryAppend) != 0;
  if (!is_append) ForgetSums(state);  // of a prompt that was never ended
  plan->has_selected = JudgeWaiting(request.layer, local.end);
  if (is_append || local.end > state.judged_tokens) {
    if (state.has_sparse_heads && local.begin == 0) PlanDense(state, request, plan);
  } else {
    PlanSparse(state, request, plan);
  }
}

void HgcaShard::PlanDense(Layer& state, const ReadRequest& request, ReadPlan* plan) {
  const TokenRange local = request.local;
  const bool ends = (request.flags & kQueryAppendEnd) != 0;
  plan->after = (request.flags & kQueryAppend) != 0 && !ends ? ReadPlan::After::kCollect : ReadPlan::After::kSelect;
  for (size_t head = 0; head < state.heads.size(); ++head) {
    if (!state.heads[head].has_value()) continue;
    std::vector<float>& sums = state.sums[head];
    // A query that did not see a token gave it no weight.
    if (sums.size() < local.size()) sums.resize(local.size(), 0.0f);
    plan->answer[head].weights = std::span(sums).first(local.size());
  }
}

void HgcaShard::PlanSparse(Layer& state, const ReadRequest& request, ReadPlan* plan) {
  for (uint32_t head = 0; head < state.heads.size(); ++head) {
    if (!ReadsCache(request.layer, head)) continue;
    const std::span<const uint32_t> tokens = state.heads[head]->tokens();
    const HeadRead cached{.rows = RowsIn(tokens, request.local)};
    plan->answer[head] = cached;
    // A selection without a limit is never distilled: nobody asks for its saliences. Weights of a part of the rows say
    // nothing about the others.
    if (params_.max_cache_tokens == 0 || cached.rows != TokenRange{0, tokens.size()} || tokens.empty()) {
      continue;
    }
    row_weights_[head].assign(tokens.size(), 0.0f);
    plan->answer[head].weights = row_weights_[head];
    plan->after = ReadPlan::After::kUpdate;
  }
}

void HgcaShard::AfterAnswer(const ReadRequest& request, const ReadPlan& plan, ShardExecutor& executor) {
  Layer& state = LayerOf(request.layer);
  if (plan.after == ReadPlan::After::kUpdate) {
    for (uint32_t head = 0; head < state.heads.size(); ++head) {
      if (plan.answer[head].weights.empty()) continue;
      FinishQueryMean(request.n_q, plan.answer[head].weights);
      state.heads[head]->OnAttended(params_.maw().alpha, plan.answer[head].weights);
    }
  } else {
    state.num_queries += request.n_q;
    if (plan.after == ReadPlan::After::kSelect) Reselect(request.layer, executor);
  }
}

void HgcaShard::Reselect(uint32_t layer, ShardExecutor& executor) {
  Layer& state = LayerOf(layer);
  uint64_t num_tokens = state.judged_tokens;
  for (const std::vector<float>& sums : state.sums) {
    num_tokens = std::max<uint64_t>(num_tokens, sums.size());
  }
  executor.ForEach(static_cast<uint32_t>(state.heads.size()), [&](uint32_t head) {
    if (state.heads[head].has_value()) ReselectHead(layer, head, num_tokens);
  });
  state.judged_tokens = num_tokens;
  ForgetSums(state);
}

void HgcaShard::ReselectHead(uint32_t layer, uint32_t kv_head, uint64_t num_tokens) {
  Layer& state = LayerOf(layer);
  std::vector<float>& weights = state.sums[kv_head];
  const std::optional<SelectionRule> rule = policy_.RuleAt(HgcaMoment::kAppend, weights.size());
  TRIBUTARY_CHECK(rule.has_value());
  FinishQueryMean(state.num_queries, weights);
  // Blocks that the prompt's queries did not see yet: what nobody can judge is kept.
  weights.resize(num_tokens, std::numeric_limits<float>::quiet_NaN());
  state.heads[kv_head]->OnAppend(*rule, weights);
  cache_->Clear(layer, kv_head);
  FillCache(layer, kv_head);
}

void HgcaShard::ForgetSums(Layer& state) {
  if (state.num_queries == 0 &&
      std::all_of(state.sums.begin(), state.sums.end(), [](const auto& sums) { return sums.empty(); })) {
    return;
  }
  for (std::vector<float>& sums : state.sums) sums = {};
  state.num_queries = 0;
}

// ---- the seat ----

namespace {

// Everything is selected, so that nothing is kept: what comes with spills is checked and forgotten.
class AllOfHgcaShard final : public ShardPolicy {
 public:
  explicit AllOfHgcaShard(uint32_t num_kv_heads) : num_kv_heads_(num_kv_heads) {}

  FrameError CheckSpill(uint32_t num_tokens, std::span<const std::byte> section) const override {
    HgcaSpillSection decoded;
    const bool is_sound = DecodeHgcaSpillSection(section, num_tokens, num_kv_heads_, &decoded);
    return is_sound ? FrameError::kOk : FrameError::kMalformed;
  }
  void OnStored(uint32_t layer, TokenRange local, std::span<const std::byte> section) override {}
  void PlanRead(const ReadRequest& request, ReadPlan* plan) override { ResetToDense(request, num_kv_heads_, plan); }

 private:
  const uint32_t num_kv_heads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ShardPolicy>> MakeHgcaShardPolicy(const KvShard* shard, BlockPool* pool);

absl::StatusOr<std::unique_ptr<ShardPolicy>> MakeHgcaShardPolicy(const KvShard* shard, BlockPool* pool) {
  TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<RowCache> cache,
                             RowCache::Open(shard->spec(), NeedsOf(shard->spec()).row_cache, pool));
  if (cache == nullptr) return std::make_unique<AllOfHgcaShard>(shard->spec().num_kv_heads_held());
  return std::make_unique<HgcaShard>(shard, std::move(cache));
}

}  // namespace tributary
