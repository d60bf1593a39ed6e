#include "gpu_worker/engine/step_account.h"

#include <algorithm>

namespace tributary {

void StepAccount::AddRow(Sequence& sequence, const StepRow& row) const {
  const double per_head = static_cast<double>(row.attended_head_tokens) /
                          (static_cast<double>(std::max(1u, model_.num_shard_layers())) * model_.shape.num_kv_heads);
  sequence.bytes_sent += row.bytes_sent;
  sequence.bytes_received += row.bytes_received;
  if (row.parked) return;
  if (row.status.ok()) sequence.softmax_tokens = row.resident_tokens;
  if (!sequence.is(SequenceState::kDecoding) && !sequence.replays_answer()) return;
  ++sequence.num_steps;
  sequence.attended_tokens_sum += static_cast<double>(row.resident_tokens) + per_head;
  if (row.status.ok() && row.quality != nullptr && !row.remote.empty()) AddQuality(row);
}

void StepAccount::AddQuality(const StepRow& row) const {
  const uint64_t covered = row.remote.size() * model_.num_shard_layers() * model_.shape.num_kv_heads;
  row.quality->EndStep(row.attended_head_tokens, covered);
  if (metrics_ == nullptr) return;
  const auto heads = static_cast<double>(model_.num_shard_layers()) * model_.shape.num_kv_heads;
  metrics_->sparse_covered.Increment(static_cast<double>(covered) / heads);
  metrics_->sparse_attended.Increment(static_cast<double>(row.attended_head_tokens) / heads);
  if (!row.measured) return;
  metrics_->kept_mass_mean.Observe(row.quality->step_kept_mass().mean());
  metrics_->kept_mass_min.Observe(row.quality->step_kept_mass().minimum());
  for (const float error : row.quality->step_output_errors()) metrics_->output_error.Observe(double{error});
}

void StepAccount::AddStages(std::span<const BatchEntry> batch, const DecodeStep& step) const {
  const StageTimes& times = step.stage_times();
  for (size_t stage = 0; stage < kNumStages; ++stage) {
    for (const BatchEntry& entry : batch) {
      if (entry.sequence->num_steps == 0) continue;  // it appended
      entry.sequence->stage_sums_ns[stage] += times[stage];
    }
    if (metrics_ != nullptr) metrics_->stage_duration[stage].Observe(SecondsFromNs(times[stage]));
  }
  if (metrics_ != nullptr) metrics_->remote_exposed.Observe(SecondsFromNs(step.exposed_wait_ns()));
}

void StepAccount::AddStep(size_t num_rows, double step_s) const {
  if (metrics_ == nullptr || num_rows == 0) return;
  metrics_->step_duration.Observe(step_s);
  metrics_->batch_size.Observe(static_cast<double>(num_rows));
}

}  // namespace tributary
