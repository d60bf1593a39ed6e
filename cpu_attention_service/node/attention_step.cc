#include "cpu_attention_service/node/attention_step.h"

#include <algorithm>

#include "base/check.h"

namespace tributary {

AttentionStep::AttentionStep(ShardExecutor* executor, const Clock* clock, AttentionMetrics* metrics)
    : executor_(executor), clock_(clock), metrics_(metrics) {}

void AttentionStep::Plan(NodeShard* shard, const ReadRequest& request) {
  ShardPolicy* const policy = shard->policy.get();
  const std::span<Work> unrun = Unrun();
  const bool again = std::any_of(unrun.begin(), unrun.end(), [&](const Work& work) { return work.shard == shard; });
  if (policy != nullptr && again) {
    Run();
    Finish();
  }
  if (num_planned_ == works_.size()) works_.emplace_back();
  Work& work = works_[num_planned_++];
  work.shard = shard;
  work.request = request;
  work.data = {};
  work.attended_head_tokens = 0;
  if (policy == nullptr) {
    work.plan.answer.clear();
    work.plan.sample.clear();
    work.plan.after = After::kNothing;
    work.plan.plans_heads = false;
    work.plan.scan_parts = 0;
    return;
  }
  shard->kv->UpdateSummaries(request.layer);
  const int64_t start_ns = clock_->NowNs();
  policy->PlanRead(request, &work.plan);
  if (work.plan.has_selected) metrics_->selection_seconds.Observe(SecondsFromNs(clock_->NowNs() - start_ns));
}

void AttentionStep::PlanEach(std::span<const HeadToPlan> heads, void (*plan)(const HeadToPlan& head)) {
  if (heads.empty()) return;
  executor_->ForEach(static_cast<uint32_t>(heads.size()), [&](uint32_t i) { plan(heads[i]); });
}

// Each head's part of the plans that have such parts, spread over the threads; then what is the same for all policies.
void AttentionStep::PlanHeads() {
  heads_to_plan_.clear();
  heads_to_scan_.clear();
  parts_to_scan_.clear();
  for (Work& work : Unrun()) {
    if (!work.plan.plans_heads) continue;
    for (uint32_t head = 0; head < work.plan.answer.size(); ++head) {
      heads_to_plan_.push_back({&work, head});
      if (work.plan.scan_parts > 0) heads_to_scan_.push_back({&work, head});
      for (uint32_t part = 0; part < work.plan.scan_parts; ++part) parts_to_scan_.push_back({&work, head, part});
    }
  }
  PlanEach(heads_to_scan_,
           [](const HeadToPlan& head) { head.work->shard->policy->BeginScan(head.work->request, head.kv_head); });
  PlanEach(parts_to_scan_, [](const HeadToPlan& head) {
    head.work->shard->policy->ScanPart(head.work->request, head.kv_head, head.part);
  });
  PlanEach(heads_to_plan_, [](const HeadToPlan& head) {
    head.work->shard->policy->PlanHead(head.work->request, head.kv_head, &head.work->plan);
  });
  for (Work& work : Unrun()) {
    if (work.shard->fallback != nullptr) work.shard->fallback->CompletePlan(work.request, &work.plan);
  }
}

ShardQuery AttentionStep::QueryOf(const Work& work) const {
  ShardQuery query;
  query.shard = work.shard->kv.get();
  query.layer = work.request.layer;
  query.local = work.request.local;
  query.n_q = work.request.n_q;
  query.q = work.request.q;
  query.heads = work.plan.answer;
  if (work.shard->policy == nullptr) return query;
  query.cache = work.shard->policy->row_cache();
  query.max_over_group = work.plan.max_over_group;
  return query;
}

void AttentionStep::AddQueries(Work& work) {
  ShardQuery query = QueryOf(work);
  query.partial = work.data;
  queries_.push_back(query);
  if (work.plan.sample.empty()) return;
  query.heads = work.plan.sample;
  query.partial = work.data.sample;
  queries_.push_back(query);
}

void AttentionStep::Run() {
  if (num_run_ == num_planned_) return;
  PlanHeads();
  queries_.clear();
  for (Work& work : Unrun()) AddQueries(work);
  const ReadRequest& request = works_[num_run_].request;
  executor_->Execute(queries_, request.softmax_scale, request.soft_cap);
  for (Work& work : Unrun()) Complete(work);
  num_run_ = num_planned_;
}

void AttentionStep::Complete(Work& work) {
  Count(work);
  if (work.request.is_measured()) Measure(work);
  if (work.shard->policy != nullptr) {
    work.shard->policy->WritePartial(work.request, work.plan, work.data, work.data.policy);
  }
  if (work.plan.after != After::kNothing) work.lse_ln.assign(work.data.lse_ln.begin(), work.data.lse_ln.end());
  work.data = {};
}

void AttentionStep::Measure(Work& work) {
  const ReadPlan& plan = work.plan;
  const uint64_t all = work.request.local.size();
  for (uint32_t head = 0; head < work.data.attended_tokens.size(); ++head) {
    const uint64_t attended = plan.answer.empty() ? all : plan.answer[head].NumTokens();
    const bool has_sample = !plan.sample.empty() && !plan.sample[head].is_untouched;
    work.data.attended_tokens[head] = static_cast<uint32_t>(attended);
    work.data.sampled_tokens[head] = static_cast<uint32_t>(has_sample ? plan.sample[head].NumTokens() : attended);
  }
  FillSample(work);
  if (work.shard->policy == nullptr) return;
  kept_mass_.clear();
  SampledPartials partials;
  partials.answer = AttentionPartialView(work.data);
  partials.sample = work.data.sample;
  work.shard->fallback->OnSampled(work.request, plan, partials, &kept_mass_);
  work.shard->policy->OnSampled(work.request, plan, partials);
  for (const float kept : kept_mass_) metrics_->kept_mass.Observe(kept);
}

void AttentionStep::FillSample(const Work& work) {
  const ShardSpec& spec = work.shard->kv->spec();
  const size_t group_size = spec.model.group_size(), head_dim = spec.model.head_dim;
  for (size_t head = 0; head < work.data.attended_tokens.size(); ++head) {
    if (!work.plan.sample.empty() && !work.plan.sample[head].is_untouched) continue;
    for (size_t row = head * group_size; row < work.data.lse_ln.size(); row += spec.num_q_heads_held()) {
      const std::span<const float> lse_ln = work.data.lse_ln.subspan(row, group_size);
      const std::span<const float> out = work.data.out.subspan(row * head_dim, group_size * head_dim);
      std::copy(lse_ln.begin(), lse_ln.end(), work.data.sample.lse_ln.subspan(row).begin());
      std::copy(out.begin(), out.end(), work.data.sample.out.subspan(row * head_dim).begin());
    }
  }
}

void AttentionStep::Count(Work& work) {
  const ShardSpec& spec = work.shard->kv->spec();
  const uint64_t covered = work.request.local.size();
  if (work.plan.answer.empty()) work.attended_head_tokens = covered * spec.num_kv_heads_held();
  for (const HeadRead& head : work.plan.answer) work.attended_head_tokens += head.NumTokens();
  const double attended =
      static_cast<double>(work.attended_head_tokens) / static_cast<double>(spec.num_kv_heads_held());
  metrics_->covered_tokens.Increment(static_cast<double>(covered));
  metrics_->attended_tokens.Increment(attended);
  if (IsQuantisedDType(spec.k_dtype) || IsQuantisedDType(spec.v_dtype)) {
    metrics_->quantised_tokens.Increment(attended);
  }
}

void AttentionStep::Finish() {
  TRIBUTARY_CHECK_EQ(num_run_, num_planned_);
  FinishThose(After::kUpdate, metrics_->policy_update_seconds);
  FinishThose(After::kCollect, metrics_->append_weights_seconds);
  FinishThose(After::kSelect, metrics_->reselection_seconds);
  num_finished_ = num_planned_;
}

void AttentionStep::FinishThose(After after, Histogram& seconds) {
  queries_.clear();
  for (size_t i = num_finished_; i < num_planned_; ++i) {
    if (works_[i].plan.after != after) continue;
    queries_.push_back(QueryOf(works_[i]));
    queries_.back().partial.lse_ln = works_[i].lse_ln;
  }
  if (queries_.empty()) return;
  const int64_t start_ns = clock_->NowNs();
  const ReadRequest& request = works_[num_finished_].request;
  executor_->AddWeights(queries_, request.softmax_scale, request.soft_cap);
  for (size_t i = num_finished_; i < num_planned_; ++i) {
    Work& work = works_[i];
    if (work.plan.after == after) work.shard->policy->AfterAnswer(work.request, work.plan, *executor_);
  }
  seconds.Observe(SecondsFromNs(clock_->NowNs() - start_ns));
}

}  // namespace tributary
