#include "cpu_attention_service/node/attention_step.h"

#include <algorithm>

#include "base/check.h"

namespace tributary {
namespace {

using Weights = SelectionRead::Weights;

bool SelectsAnew(Weights weights) { return weights == Weights::kReselect || weights == Weights::kAppendEnd; }

}  // namespace

void AttentionStep::Begin(uint32_t layer, float softmax_scale) {
  layer_ = layer;
  softmax_scale_ = softmax_scale;
  num_planned_ = num_run_ = num_selected_ = 0;
}

void AttentionStep::Plan(NodeShard* shard, const QueryEntry& query, std::span<const std::byte> q, PartialEntry* entry) {
  ShardSelection* const selection = shard->selection.get();
  const bool again = std::any_of(works_.begin() + static_cast<std::ptrdiff_t>(num_run_),
                                 works_.begin() + static_cast<std::ptrdiff_t>(num_planned_),
                                 [&](const Work& work) { return work.shard == shard; });
  if (selection != nullptr && again) {
    Run();
    Select();
  }
  if (num_planned_ == works_.size()) works_.emplace_back();
  Work& work = works_[num_planned_++];
  const TokenStripe& stripe = shard->kv->spec().stripe;
  work.shard = shard;
  work.local = {stripe.LocalIndex(query.visible_begin), stripe.LocalIndex(query.visible_end)};
  work.n_q = query.n_q;
  work.q = q;
  work.data = {};
  work.read.answer.clear();
  work.read.sample.clear();
  work.read.weights = Weights::kNone;
  if (selection == nullptr) return;
  if (selection->HasBlocksToJudge(layer_, work.local.end)) {
    const int64_t start_ns = clock_->NowNs();
    selection->Plan(layer_, work.local, query.flags, &work.read);
    metrics_->selection_seconds.Observe(SecondsFromNs(clock_->NowNs() - start_ns));
  } else {
    selection->Plan(layer_, work.local, query.flags, &work.read);
  }
  entry->attended_head_tokens = 0;
  for (uint32_t head = 0; head < entry->num_kv_heads; ++head) {
    entry->attended_head_tokens += work.read.AttendedTokens(head, work.local);
  }
}

ShardQuery AttentionStep::QueryOf(const Work& work) const {
  ShardQuery query;
  query.shard = work.shard->kv.get();
  query.layer = layer_;
  query.local = work.local;
  query.n_q = work.n_q;
  query.q = work.q;
  query.heads = work.read.answer;
  if (work.shard->selection == nullptr) return query;
  query.cache = &work.shard->selection->cache();
  query.max_over_group = work.shard->selection->group_aggregate() == GroupAggregate::kMax;
  return query;
}

void AttentionStep::AddQueries(Work& work) {
  ShardQuery query = QueryOf(work);
  query.partial = work.data;
  queries_.push_back(query);
  if (work.read.sample.empty()) return;
  work.sample_out.resize(work.data.out.size());
  work.sample_lse_ln.resize(work.data.lse_ln.size());
  query.heads = work.read.sample;
  query.partial = {work.sample_out, work.sample_lse_ln};
  queries_.push_back(query);
}

void AttentionStep::Run() {
  queries_.clear();
  for (size_t i = num_run_; i < num_planned_; ++i) AddQueries(works_[i]);
  executor_->Execute(queries_, softmax_scale_);
  for (; num_run_ < num_planned_; ++num_run_) {
    Work& work = works_[num_run_];
    if (!work.data.lse_dense_ln.empty()) Measure(work);
    if (work.read.weights != Weights::kNone) {
      work.lse_ln.assign(work.data.lse_ln.begin(), work.data.lse_ln.end());
    }
    Count(work);
    work.data = {};
  }
}

void AttentionStep::Measure(Work& work) {
  ShardSelection* const selection = work.shard->selection.get();
  for (uint32_t head = 0; head < work.data.attended_tokens.size(); ++head) {
    const uint64_t tokens = selection == nullptr ? work.local.size() : work.read.AttendedTokens(head, work.local);
    work.data.attended_tokens[head] = static_cast<uint32_t>(tokens);
  }
  if (selection == nullptr) {
    std::copy(work.data.lse_ln.begin(), work.data.lse_ln.end(), work.data.lse_dense_ln.begin());
    return;
  }
  kept_mass_.clear();
  selection->OnSampled(layer_, work.read, work.data.lse_ln, work.sample_lse_ln, work.data.lse_dense_ln, &kept_mass_);
  for (const float kept : kept_mass_) metrics_->kept_mass.Observe(kept);
}

void AttentionStep::Count(const Work& work) {
  const ShardSpec& spec = work.shard->kv->spec();
  auto attended = static_cast<double>(work.local.size());
  if (!work.read.answer.empty()) {
    attended = 0;
    for (uint32_t head = 0; head < work.read.answer.size(); ++head) {
      attended += static_cast<double>(work.read.AttendedTokens(head, work.local));
    }
    attended /= static_cast<double>(work.read.answer.size());
  }
  metrics_->covered_tokens.Increment(static_cast<double>(work.local.size()));
  metrics_->attended_tokens.Increment(attended);
  if (IsQuantisedDType(spec.k_dtype) || IsQuantisedDType(spec.v_dtype)) {
    metrics_->quantised_tokens.Increment(attended);
  }
}

void AttentionStep::Select() {
  TRIBUTARY_CHECK_EQ(num_run_, num_planned_);
  SelectBy([](Weights w) { return w == Weights::kUpdate; }, metrics_->salience_update_seconds);
  SelectBy([](Weights w) { return w == Weights::kAppend; }, metrics_->append_weights_seconds);
  SelectBy(&SelectsAnew, metrics_->reselection_seconds);
  num_selected_ = num_planned_;
}

void AttentionStep::SelectBy(bool (*includes)(SelectionRead::Weights), Histogram& seconds) {
  const auto is_due = [&](const Work& work) { return includes(work.read.weights); };
  queries_.clear();
  for (size_t i = num_selected_; i < num_planned_; ++i) {
    if (!is_due(works_[i])) continue;
    queries_.push_back(QueryOf(works_[i]));
    queries_.back().partial.lse_ln = works_[i].lse_ln;
  }
  if (queries_.empty()) return;
  const int64_t start_ns = clock_->NowNs();
  executor_->AddWeights(queries_, softmax_scale_);
  for (size_t i = num_selected_; i < num_planned_; ++i) {
    const Work& work = works_[i];
    if (is_due(work)) work.shard->selection->OnWeights(layer_, work.n_q, work.read, *executor_);
  }
  seconds.Observe(SecondsFromNs(clock_->NowNs() - start_ns));
}

}  // namespace tributary
