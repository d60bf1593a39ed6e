#include "gpu_worker/step/attention_quality.h"

#include <algorithm>

#include "attention/merge.h"
#include "base/check.h"
#include "base/limits.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

constexpr double kReportedQuantile = 0.95;

// LSE of one query head over what is merged, without the resident part.
float RemoteLse(std::span<const ConstAttentionPartialView> partials, uint32_t q_head) {
  MergeState state;
  for (const ConstAttentionPartialView& partial : partials.subspan(1)) state.Fold(partial.lse_ln[q_head]);
  return state.LseLn();
}

}  // namespace

AttentionQuality::AttentionQuality(const PolicyParams& policy, const AttentionShape& shape, uint32_t num_layers)
    : shape_(shape),
      sample_rate_(ReadSparseParams(policy).quality_sample_rate),
      min_kept_mass_(ReadSparseParams(policy).min_kept_mass),
      max_output_error_(ReadSparseParams(policy).max_output_error),
      policy_(MakePolicy(policy)),
      heads_(size_t{num_layers} * shape.num_kv_heads),
      step_errors_(size_t{num_layers} * shape.num_q_heads),
      selected_errors_(shape.num_q_heads),
      distances_(shape.num_q_heads),
      kept_(shape.num_q_heads) {
  for (auto* partials : {&read_, &full_, &selected_}) partials->reserve(limits::kMaxTokenStripes + 1);
}

void AttentionQuality::BeginTurn() {
  heads_.assign(heads_.size(), {});
  num_steps_ = 1;  // the next step reads what the appended prompt selected, and is a sample
  num_samples_ = 0;
  attended_head_tokens_ = covered_head_tokens_ = 0;
}

bool AttentionQuality::BeginStep() {
  measuring_ = num_steps_ > 0 && IsQualitySample(num_steps_ - 1, sample_rate_);
  ++num_steps_;
  step_ = {};
  return measuring_;
}

void AttentionQuality::AddLayer(const MeasuredLayer& measured) {
  TRIBUTARY_CHECK(measuring_);
  TRIBUTARY_CHECK_LT(size_t{measured.layer} * shape_.num_kv_heads, heads_.size());
  double largest_norm = 0;
  for (uint32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    SetPartials(measured, kv_head);
    const uint32_t first = kv_head * shape_.group_size();
    for (uint32_t q_head = first; q_head < first + shape_.group_size(); ++q_head) {
      const OutputDistance read = CompareOutputs(read_, full_, q_head, shape_.head_dim);
      const OutputDistance selected = CompareOutputs(selected_, full_, q_head, shape_.head_dim);
      distances_[q_head] = {read.distance, selected.distance};
      largest_norm = std::max(largest_norm, read.full_norm);
      kept_[q_head] = KeptMass(RemoteLse(read_, q_head), RemoteLse(full_, q_head));
    }
  }
  for (uint32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) AddHead(measured, kv_head, largest_norm);
}

void AttentionQuality::SetPartials(const MeasuredLayer& measured, uint32_t kv_head) {
  const size_t heads = shape_.num_q_heads, floats = heads * shape_.head_dim;
  for (auto* partials : {&read_, &full_, &selected_}) partials->assign(1, measured.resident);
  for (uint32_t slot = 0; slot < measured.num_slots; ++slot) {
    const auto of_slot = [&](const ConstAttentionPartialView& view) {
      return ConstAttentionPartialView{view.out.subspan(slot * floats, floats),
                                       view.lse_ln.subspan(slot * heads, heads)};
    };
    const size_t i = size_t{slot} * shape_.num_kv_heads + kv_head;
    const uint32_t attended = measured.attended_tokens[i], sampled = measured.sampled_tokens[i];
    const ConstAttentionPartialView answer = of_slot(measured.answer), sample = of_slot(measured.sample);
    read_.push_back(answer);
    full_.push_back(attended >= sampled ? answer : sample);
    selected_.push_back(attended > sampled ? sample : answer);
  }
}

void AttentionQuality::AddHead(const MeasuredLayer& measured, uint32_t kv_head, double largest_norm) {
  Head& head = heads_[size_t{measured.layer} * shape_.num_kv_heads + kv_head];
  const uint32_t first = kv_head * shape_.group_size();
  float worst_kept = 1;
  bool is_too_wrong = false;
  for (uint32_t q_head = first; q_head < first + shape_.group_size(); ++q_head) {
    head.kept.Add(kept_[q_head]);
    step_.Add(kept_[q_head]);
    worst_kept = std::min(worst_kept, kept_[q_head]);
    const float error = OutputError(distances_[q_head].read, largest_norm);
    head.error.Add(error);
    step_errors_[size_t{measured.layer} * shape_.num_q_heads + q_head] = error;
    // Written so that NaN is too wrong.
    selected_errors_[q_head] = OutputError(distances_[q_head].selected, largest_norm);
    is_too_wrong |= !(selected_errors_[q_head] <= max_output_error_);
  }
  uint64_t attended = 0;
  for (uint32_t slot = 0; slot < measured.num_slots; ++slot) {
    attended += measured.attended_tokens[size_t{slot} * shape_.num_kv_heads + kv_head];
  }
  head.read_share_sum += static_cast<double>(attended) / static_cast<double>(measured.remote_tokens);
  head.is_dense = attended == measured.remote_tokens || worst_kept < min_kept_mass_;
  head.wants_dense = max_output_error_ > 0 && is_too_wrong;
}

void AttentionQuality::EndStep(uint64_t attended_head_tokens, uint64_t covered_head_tokens) {
  attended_head_tokens_ += static_cast<double>(attended_head_tokens);
  covered_head_tokens_ += static_cast<double>(covered_head_tokens);
  if (measuring_) ++num_samples_;
}

AttentionQualitySummary AttentionQuality::Summary() const {
  AttentionQualitySummary summary;
  if (covered_head_tokens_ > 0) {
    summary.remote_read_share = attended_head_tokens_ / covered_head_tokens_;
  }
  summary.num_samples = num_samples_;
  if (num_samples_ == 0) return summary;
  const bool may_fall_back = min_kept_mass_ > 0 && policy_->may_leave_out();
  KeptMassStats all;
  OutputErrorStats errors;
  for (size_t i = 0; i < heads_.size(); ++i) {
    const Head& head = heads_[i];
    const auto layer = static_cast<uint32_t>(i / shape_.num_kv_heads);
    const auto kv_head = static_cast<uint32_t>(i % shape_.num_kv_heads);
    all.Merge(head.kept);
    errors.Merge(head.error);
    const bool kept_too_little = may_fall_back && head.is_dense && !policy_->IsAlwaysDense(layer, kv_head);
    if (kept_too_little || head.wants_dense) ++summary.fallback_heads;
    // A step that failed halfway may have left samples of some layers.
    const auto samples = static_cast<double>(head.kept.count / shape_.group_size());
    summary.heads.push_back({layer, kv_head, samples == 0 ? 1.0 : head.read_share_sum / samples, head.kept.mean(),
                             head.kept.minimum(), head.error.mean(), head.error.Quantile(kReportedQuantile),
                             head.error.maximum()});
  }
  summary.kept_mass_mean = all.mean();
  summary.kept_mass_min = all.minimum();
  summary.output_error_mean = errors.mean();
  summary.output_error_p95 = errors.Quantile(kReportedQuantile);
  summary.output_error_max = errors.maximum();
  return summary;
}

}  // namespace tributary
