#include "cpu_attention_service/policy/fluxion/fluxion_shard.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "attention/output_error.h"
#include "base/check.h"
#include "cpu_attention_service/policy/shard_policy_seats.h"
#include "policy/fluxion/query_section.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

constexpr uint8_t kNoSize = 0xff;
// Of the scores by which mode `calibrated` chooses and estimates. On SmolLM2 (4,096 tokens of a novel) the ratio of the
// true remote mass to that of the scores varies from step to step by e^2.1 with 1, the bound, by e^1.0 with 0.5 and by
// e^0.5 with 0.2; but so narrow a score overlooks single tokens that matter (docs/quality.md).
constexpr float kCalibratedSpread = 0.5f;
// Queries of a layer between two comparisons of block sizes: each reads the summaries of all of them, twice the bytes
// of the smallest blocks'.
constexpr uint64_t kSizeQueries = 32;

bool IsAppend(const ReadRequest& request) { return (request.flags & kQueryAppend) != 0; }
// It is answered by everything, whatever its blocks are.
bool TakesAll(const ReadRequest& request) { return IsAppend(request) || request.n_q != 1; }

void CopyFloats(std::span<const std::byte> from, std::vector<float>* to) {
  to->resize(from.size() / sizeof(float));
  if (!from.empty()) std::memcpy(to->data(), from.data(), from.size());
}

}  // namespace

FluxionShard::FluxionShard(const KvShard* shard)
    : shard_(shard),
      params_(ReadFluxionParams(shard->spec().policy)),
      policy_(params_, ReadSparseParams(shard->spec().policy)) {
  const ShardSpec& spec = shard->spec();
  for (const BlockSummaryOptions& options : policy_.needs().block_summaries) {
    summaries_.push_back(shard->FindSummaries(options));
    TRIBUTARY_CHECK(summaries_.back() != nullptr);
  }
  if (summaries_.empty()) return;  // everything is read
  for (uint32_t layer = spec.layer_begin; layer < spec.layer_end; ++layer) {
    layers_.emplace_back(spec.num_kv_heads_held(), spec.num_q_heads_held());
    std::fill(layers_.back().size_idx.begin(), layers_.back().size_idx.end(), kNoSize);
  }
  // One more than fit, if the visible range begins inside of a block.
  const auto max_blocks = static_cast<uint32_t>(spec.capacity_tokens / policy_.block_sizes().front() + 2);
  for (uint32_t head = 0; head < spec.num_kv_heads_held(); ++head) {
    heads_.emplace_back(&block_selection::Best(), spec.model.group_size(), max_blocks, spec.model.head_dim);
  }
  if (params_.mode == BudgetMode::kOracle) oracle_.emplace(shard);
}

const HeadBudget& FluxionShard::budget(uint32_t layer, uint32_t q_head) const { return LayerOf(layer).budgets[q_head]; }

uint32_t FluxionShard::block_tokens(uint32_t layer, uint32_t kv_head) const {
  const uint8_t size_idx = LayerOf(layer).size_idx[kv_head];
  return policy_.block_sizes()[size_idx == kNoSize ? 0 : size_idx];
}

// ---- a query's section ----

FrameError FluxionShard::CheckQuery(const ReadRequest& request) const {
  if (request.section.empty()) return FrameError::kOk;
  if (!FluxionQueryMayHaveSection(params_.mode, request.n_q, IsAppend(request))) return FrameError::kMalformed;
  FluxionQuerySection section;
  const bool is_sound = DecodeFluxionQuerySection(request.section, FormOf(request), &section);
  return is_sound ? FrameError::kOk : FrameError::kMalformed;
}

FluxionQueryForm FluxionShard::FormOf(const ReadRequest& request) const {
  const ShardSpec& spec = shard_->spec();
  return FluxionQueryFormOf(params_.mode, spec.num_q_heads_held(), spec.model.head_dim, request.is_measured(),
                            /*has_errors=*/true);
}

void FluxionShard::ReadSection(const ReadRequest& request) {
  FluxionQuerySection section;
  TRIBUTARY_CHECK(DecodeFluxionQuerySection(request.section, FormOf(request), &section));
  CopyFloats(section.lse_ln, &resident_lse_ln_);
  CopyFloats(section.out, &resident_out_);
  budgets_.resize(section.budgets.size() / sizeof(PredictedBudget));
  if (!budgets_.empty()) std::memcpy(budgets_.data(), section.budgets.data(), section.budgets.size());
  TakeErrors(request.layer, section);
}

// The same measurement may come with several queries, and to several holders of the shard.
void FluxionShard::TakeErrors(uint32_t layer, const FluxionQuerySection& section) {
  Layer& state = LayerOf(layer);
  if (section.error_number <= state.error_number) return;
  state.error_number = section.error_number;
  CopyFloats(section.errors, &errors_);
  for (uint32_t row = 0; row < errors_.size(); ++row) {
    state.budgets[row].OnSample(double{errors_[row]}, params_.target_output_error);
  }
}

// ---- planning ----

void FluxionShard::PlanRead(const ReadRequest& request, ReadPlan* plan) {
  ResetToDense(request, shard_->spec().num_kv_heads_held(), plan);
  for (Head& head : heads_) head.calibrates = false;
  if (summaries_.empty() || request.local.empty()) return;
  ++LayerOf(request.layer).num_queries;
  ReadSection(request);
  if (TakesAll(request) && params_.mode != BudgetMode::kCalibrated) return;
  plan->plans_heads = true;
  if (!oracle_.has_value()) return;
  ConstAttentionPartialView resident;
  if (!resident_out_.empty()) resident = {resident_out_, resident_lse_ln_};
  oracle_->Begin(request, policy_.block_sizes().front(), resident);
}

bool FluxionShard::IsCalibrated(const Layer& state, uint32_t kv_head) const {
  const auto group = std::span(state.budgets).subspan(first_q_head(kv_head), shard_->spec().model.group_size());
  return std::all_of(group.begin(), group.end(), [](const HeadBudget& budget) { return budget.is_calibrated(); });
}

void FluxionShard::PlanHead(const ReadRequest& request, uint32_t kv_head, ReadPlan* plan) {
  if (policy_.IsAlwaysDense(request.layer, shard_->spec().kv_head_begin + kv_head)) return;
  const Layer& state = LayerOf(request.layer);
  Head& head = heads_[kv_head];
  CopyQ(request, kv_head);
  switch (params_.mode) {
    case BudgetMode::kCalibrated:
      if (TakesAll(request) || !IsCalibrated(state, kv_head)) {
        ScoreAllSizes(request, kv_head);
        head.calibrates = true;
        return;
      }
      ChooseSizeAndBlocks(request, kv_head);
      break;
    case BudgetMode::kFixed:
      ChooseFixed(request, kv_head);
      break;
    case BudgetMode::kPredictor:
      if (budgets_.empty()) return;  // nobody says what the heads need
      ChoosePredicted(request, kv_head);
      break;
    case BudgetMode::kOracle:
      ChooseOracle(request, kv_head);
      break;
  }
  plan->answer[kv_head] = head.choice.Read();
}

// Of the last query token, whose answer calibrates where there are several.
void FluxionShard::CopyQ(const ReadRequest& request, uint32_t kv_head) {
  const ShardSpec& spec = shard_->spec();
  Head& head = heads_[kv_head];
  const size_t row = size_t{request.n_q - 1} * spec.num_q_heads_held() + first_q_head(kv_head);
  std::memcpy(head.q.data(), request.q.data() + row * spec.model.head_dim * sizeof(float),
              head.q.size() * sizeof(float));
  for (auto& of_row : head.bound_lse_ln) of_row.fill(std::numeric_limits<float>::quiet_NaN());
}

BlockQuery FluxionShard::QueryOf(const ReadRequest& request, uint32_t kv_head, uint32_t size_idx) const {
  return {.summaries = summaries_[size_idx],
          .stream = shard_->SummaryStream(request.layer, kv_head),
          .local = request.local,
          .q = heads_[kv_head].q,
          .softmax_scale = request.softmax_scale,
          .spread = params_.mode == BudgetMode::kCalibrated ? kCalibratedSpread : 1.0f};
}

void FluxionShard::Score(const ReadRequest& request, uint32_t kv_head, uint32_t size_idx) {
  heads_[kv_head].choice.Score(QueryOf(request, kv_head, size_idx));
}

void FluxionShard::ScoreAllSizes(const ReadRequest& request, uint32_t kv_head) {
  Head& head = heads_[kv_head];
  for (uint32_t size_idx = 0; size_idx < summaries_.size(); ++size_idx) {
    Score(request, kv_head, size_idx);
    for (uint32_t row = 0; row < head.bound_lse_ln.size(); ++row) {
      head.bound_lse_ln[row][policy_.first_size_idx() + size_idx] = head.choice.Bounds(row).lse_ln;
    }
  }
}

void FluxionShard::ChooseCalibrated(const ReadRequest& request, uint32_t kv_head, uint32_t size_idx) {
  const Layer& state = LayerOf(request.layer);
  Head& head = heads_[kv_head];
  Score(request, kv_head, size_idx);
  for (uint32_t row = 0; row < head.bound_lse_ln.size(); ++row) {
    const uint32_t q_head = first_q_head(kv_head) + row;
    const BlockBounds bounds = head.choice.Bounds(row);
    head.bound_lse_ln[row][policy_.first_size_idx() + size_idx] = bounds.lse_ln;
    const float resident_lse_ln = resident_lse_ln_.empty() ? kEmptyLse : resident_lse_ln_[q_head];
    head.choice.ChooseByRule(
        row, state.budgets[q_head].RuleOf(params_, policy_.first_size_idx() + size_idx, bounds, resident_lse_ln));
  }
}

void FluxionShard::ChooseSizeAndBlocks(const ReadRequest& request, uint32_t kv_head) {
  Layer& state = LayerOf(request.layer);
  Head& head = heads_[kv_head];
  uint8_t& size_idx = state.size_idx[kv_head];
  if (summaries_.size() == 1) size_idx = 0;
  const bool compares =
      summaries_.size() > 1 && (size_idx == kNoSize || request.is_measured() || state.num_queries % kSizeQueries == 0);
  if (!compares) {
    ChooseCalibrated(request, kv_head, size_idx);
    return;
  }
  uint64_t least_bytes = std::numeric_limits<uint64_t>::max();
  for (uint8_t size = 0; size < summaries_.size(); ++size) {
    ChooseCalibrated(request, kv_head, size);
    SizeCost cost = CostOf(size);
    cost.num_blocks = head.choice.num_blocks();
    cost.union_tokens = head.choice.UnionTokens();
    if (cost.bytes() >= least_bytes) continue;
    least_bytes = cost.bytes();
    size_idx = size;
  }
  if (size_idx + 1u != summaries_.size()) ChooseCalibrated(request, kv_head, size_idx);
}

void FluxionShard::ChooseFixed(const ReadRequest& request, uint32_t kv_head) {
  HeadChoice& choice = heads_[kv_head].choice;
  Score(request, kv_head, 0);
  const uint32_t k = BudgetBlocks(params_.budget, choice.num_whole_blocks());
  for (uint32_t row = 0; row < shard_->spec().model.group_size(); ++row) choice.ChooseBest(row, k);
}

void FluxionShard::ChoosePredicted(const ReadRequest& request, uint32_t kv_head) {
  Layer& state = LayerOf(request.layer);
  HeadChoice& choice = heads_[kv_head].choice;
  const uint32_t group_size = shard_->spec().model.group_size();
  const auto share_of = [&](uint32_t row, uint32_t size) {
    const uint32_t q_head = first_q_head(kv_head) + row;
    return state.budgets[q_head].ShareOf(params_, budgets_[q_head], policy_.first_size_idx() + size);
  };
  // The least upper bound of the bytes: heads may choose different blocks, or the same ones.
  uint64_t least_bytes = std::numeric_limits<uint64_t>::max();
  for (uint32_t size = 0; size < summaries_.size(); ++size) {
    double shares = 0;
    for (uint32_t row = 0; row < group_size; ++row) shares += share_of(row, size);
    SizeCost cost = CostOf(size);
    cost.num_blocks = shares == 0 ? 0 : BlocksOf(request.local, policy_.block_sizes()[size]).size();
    cost.union_tokens = static_cast<uint64_t>(std::min(shares, 1.0) * static_cast<double>(request.local.size()));
    if (cost.bytes() >= least_bytes) continue;
    least_bytes = cost.bytes();
    state.size_idx[kv_head] = static_cast<uint8_t>(size);
  }
  if (least_bytes == 0) {  // nobody reads a block
    choice.ChooseNothingWhole(QueryOf(request, kv_head, state.size_idx[kv_head]));
    return;
  }
  Score(request, kv_head, state.size_idx[kv_head]);
  for (uint32_t row = 0; row < group_size; ++row) {
    const double share = share_of(row, state.size_idx[kv_head]);
    choice.ChooseBest(row, share == 0 ? 0 : BudgetBlocks(share, choice.num_whole_blocks()));
  }
}

SizeCost FluxionShard::CostOf(uint32_t size) const {
  // A spread below 1 has the summaries read twice (HeadChoice::Score).
  const uint32_t passes = params_.mode == BudgetMode::kCalibrated && kCalibratedSpread < 1 ? 2 : 1;
  return {.summary_bytes = passes * (summaries_[size]->layout().record_bytes / kSummaryRecordBlocks),
          .token_bytes = shard_->tile_layout().record_bytes / kKvTileTokens};
}

void FluxionShard::ChooseOracle(const ReadRequest& request, uint32_t kv_head) {
  HeadChoice& choice = heads_[kv_head].choice;
  Score(request, kv_head, 0);
  for (uint32_t row = 0; row < shard_->spec().model.group_size(); ++row) {
    choice.ChooseBest(row, oracle_->NumBlocks(kv_head, row, choice, params_.target_output_error));
  }
}

// ---- what was read ----

void FluxionShard::OnSampled(const ReadRequest& request, const ReadPlan& plan, const SampledPartials& partials) {
  const bool has_state = params_.mode == BudgetMode::kCalibrated || params_.mode == BudgetMode::kPredictor;
  if (summaries_.empty() || request.n_q != 1 || !has_state) return;
  const ShardSpec& spec = shard_->spec();
  const uint32_t group_size = spec.model.group_size(), head_dim = spec.model.head_dim;
  // What each head selects, and what everything gives; the answer is either.
  read_.Assign(partials.answer);
  full_.Assign(partials.answer);
  for (uint32_t head = 0; head < heads_.size(); ++head) {
    if (plan.sample[head].is_untouched) continue;
    Outputs& sampled = ReadsAll(request, plan.answer[head]) ? read_ : full_;
    const auto first = static_cast<std::ptrdiff_t>(first_q_head(head));
    std::copy_n(partials.sample.lse_ln.begin() + first, group_size, sampled.lse_ln.begin() + first);
    std::copy_n(partials.sample.out.begin() + first * head_dim, group_size * head_dim,
                sampled.out.begin() + first * head_dim);
  }
  if (!resident_out_.empty()) MeasureContrasts(request.layer, plan);
  const ConstAttentionPartialView read[] = {{read_.out, read_.lse_ln}};
  const ConstAttentionPartialView full[] = {{full_.out, full_.lse_ln}};
  errors_.resize(spec.num_q_heads_held());
  OutputErrors(read, full, head_dim, errors_);
  Layer& state = LayerOf(request.layer);
  for (uint32_t head = 0; head < heads_.size(); ++head) {
    if (plan.sample[head].is_untouched) continue;
    Calibrate(request.layer, head, std::span<const float>(full_.lse_ln).subspan(first_q_head(head), group_size));
    // A worker that sends sections says what the merged output's error was, with a later query.
    if (!resident_lse_ln_.empty()) continue;
    for (uint32_t row = first_q_head(head); row < first_q_head(head) + group_size; ++row) {
      state.budgets[row].OnSample(double{errors_[row]}, params_.target_output_error);
    }
  }
}

// full_ has what everything of the shard gives.
void FluxionShard::MeasureContrasts(uint32_t layer, const ReadPlan& plan) {
  const ConstAttentionPartialView resident{resident_out_, resident_lse_ln_}, remote{full_.out, full_.lse_ln};
  const ConstAttentionPartialView all[] = {resident, remote};
  const uint32_t head_dim = shard_->spec().model.head_dim, group_size = shard_->spec().model.group_size();
  double largest_norm = 0;
  for (uint32_t row = 0; row < full_.lse_ln.size(); ++row) {
    largest_norm = std::max(largest_norm, CompareOutputs(all, all, row, head_dim).full_norm);
  }
  for (uint32_t row = 0; row < full_.lse_ln.size(); ++row) {
    if (plan.sample[row / group_size].is_untouched) continue;
    const double distance = CompareOutputs(std::span(all).first(1), std::span(all).last(1), row, head_dim).distance;
    LayerOf(layer).budgets[row].OnContrast(distance / largest_norm);
  }
}

void FluxionShard::WritePartial(const ReadRequest& request, const ReadPlan&, const AttentionPartialView& partial,
                                std::span<std::byte>) {
  const ShardSpec& spec = shard_->spec();
  const size_t last_token = size_t{request.n_q - 1} * spec.num_q_heads_held();
  for (uint32_t head = 0; head < heads_.size(); ++head) {
    if (!heads_[head].calibrates) continue;
    Calibrate(request.layer, head,
              std::span<const float>(partial.lse_ln).subspan(last_token + first_q_head(head), spec.model.group_size()));
  }
}

void FluxionShard::Calibrate(uint32_t layer, uint32_t kv_head, std::span<const float> lse_dense_ln) {
  Layer& state = LayerOf(layer);
  for (uint32_t row = 0; row < lse_dense_ln.size(); ++row) {
    state.budgets[first_q_head(kv_head) + row].OnDense(lse_dense_ln[row], heads_[kv_head].bound_lse_ln[row]);
  }
}

// ---- the seat ----

absl::StatusOr<std::unique_ptr<ShardPolicy>> MakeFluxionShardPolicy(const KvShard* shard, BlockPool* pool);

absl::StatusOr<std::unique_ptr<ShardPolicy>> MakeFluxionShardPolicy(const KvShard* shard, BlockPool*) {
  return std::make_unique<FluxionShard>(shard);
}

}  // namespace tributary
