#include "gpu_worker/step/attention_quality.h"

#include <algorithm>

#include "attention/merge.h"
#include "base/check.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

// LSE over the slots of one query head.
float FoldSlots(std::span<const float> lse_ln, uint32_t num_slots, uint32_t num_q_heads, uint32_t head) {
  MergeState state;
  for (uint32_t slot = 0; slot < num_slots; ++slot) {
    state.Fold(lse_ln[size_t{slot} * num_q_heads + head]);
  }
  return state.LseLn();
}

}  // namespace

AttentionQuality::AttentionQuality(const PolicyParams& policy, const AttentionShape& shape, uint32_t num_layers)
    : shape_(shape),
      sample_rate_(ReadSparseParams(policy).quality_sample_rate),
      min_kept_mass_(ReadSparseParams(policy).min_kept_mass),
      policy_(MakePolicy(policy)),
      heads_(size_t{num_layers} * shape.num_kv_heads) {}

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
  for (uint32_t kv_head = 0; kv_head < shape_.num_kv_heads; ++kv_head) {
    Head& head = heads_[size_t{measured.layer} * shape_.num_kv_heads + kv_head];
    const uint32_t first = kv_head * shape_.group_size();
    float worst_kept = 1;
    for (uint32_t q_head = first; q_head < first + shape_.group_size(); ++q_head) {
      const float kept = KeptMass(FoldSlots(measured.lse_ln, measured.num_slots, shape_.num_q_heads, q_head),
                                  FoldSlots(measured.lse_dense_ln, measured.num_slots, shape_.num_q_heads, q_head));
      head.kept.Add(kept);
      step_.Add(kept);
      worst_kept = std::min(worst_kept, kept);
    }
    uint64_t attended = 0;
    for (uint32_t slot = 0; slot < measured.num_slots; ++slot) {
      attended += measured.attended_tokens[size_t{slot} * shape_.num_kv_heads + kv_head];
    }
    head.read_share_sum += static_cast<double>(attended) / static_cast<double>(measured.remote_tokens);
    head.is_dense = attended == measured.remote_tokens || worst_kept < min_kept_mass_;
  }
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
  for (size_t i = 0; i < heads_.size(); ++i) {
    const Head& head = heads_[i];
    const auto layer = static_cast<uint32_t>(i / shape_.num_kv_heads);
    const auto kv_head = static_cast<uint32_t>(i % shape_.num_kv_heads);
    all.Merge(head.kept);
    if (may_fall_back && head.is_dense && !policy_->IsAlwaysDense(layer, kv_head)) {
      ++summary.fallback_heads;
    }
    // A step that failed halfway may have left samples of some layers.
    const auto samples = static_cast<double>(head.kept.count / shape_.group_size());
    summary.heads.push_back(
        {layer, kv_head, samples == 0 ? 1.0 : head.read_share_sum / samples, head.kept.mean(), head.kept.minimum()});
  }
  summary.kept_mass_mean = all.mean();
  summary.kept_mass_min = all.minimum();
  return summary;
}

}  // namespace tributary
