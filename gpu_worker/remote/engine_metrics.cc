#include "gpu_worker/remote/engine_metrics.h"

#include <algorithm>
#include <cctype>
#include <string>

#include "absl/status/status.h"

namespace tributary {

EngineMetrics::EngineMetrics(MetricRegistry& registry)
    : step_duration(registry.histogram(metrics::kDecodeStepDuration)),
      remote_exposed(registry.histogram(metrics::kRemoteExposed)),
      remote_attention(registry.histogram(metrics::kRemoteAttention)),
      gpu_busy(registry.counter(metrics::kGpuBusy)),
      gpu_remote_wait(registry.counter(metrics::kGpuRemoteWait)),
      gpu_idle(registry.gauge(metrics::kGpuIdle)),
      partials_ok(registry.counter(metrics::kPartials, {"ok"})),
      partials_late(registry.counter(metrics::kPartials, {"late"})),
      partials_invalid(registry.counter(metrics::kPartials, {"invalid"})),
      partials_missing(registry.counter(metrics::kPartials, {"missing"})),
      batch_size(registry.histogram(metrics::kBatchSize)),
      prefill_duration(registry.histogram(metrics::kPrefillDuration)),
      sequences(registry.gauge(metrics::kSequences)),
      kept_sequences(registry.gauge(metrics::kIdleSequences)),
      appended_tokens(registry.counter(metrics::kAppendedTokens)),
      resident_capacity(registry.gauge(metrics::kResidentPoolCapacity)),
      resident_used(registry.gauge(metrics::kResidentPoolUsed)),
      spill_queue_blocks(registry.gauge(metrics::kSpillQueueBlocks)),
      stalled_sequences(registry.gauge(metrics::kStalledSequences)),
      stalls(registry.counter(metrics::kStalls)),
      spill_bytes(registry.counter(metrics::kSpillBytes)),
      sparse_covered(registry.counter(metrics::kSparseCoveredTokens)),
      sparse_attended(registry.counter(metrics::kSparseAttendedTokens)),
      kept_mass_mean(registry.histogram(metrics::kKeptMassMean)),
      kept_mass_min(registry.histogram(metrics::kKeptMassMin)),
      output_error(registry.histogram(metrics::kOutputError)),
      transport(registry),
      registry_(&registry) {
  for (size_t i = 0; i < kNumStages; ++i) {
    stage_duration[i] = registry.histogram(metrics::kDecodePhaseDuration, {kStageNames[i]});
  }
  for (size_t i = 1; i < sequences_failed.size(); ++i) {
    std::string code = absl::StatusCodeToString(static_cast<absl::StatusCode>(i));
    std::transform(code.begin(), code.end(), code.begin(), [](unsigned char c) { return std::tolower(c); });
    sequences_failed[i] = registry.counter(metrics::kSequencesFailed, {code});
  }
  for (uint32_t i = 0; i < kNumFrameErrors; ++i) {
    const std::string_view name = FrameErrorName(static_cast<FrameError>(i));
    spill_acks[i] = registry.counter(metrics::kSpillAcks, {name});
    if (i != 0) frames_rejected[i] = registry.counter(metrics::kFramesRejected, {name});
  }
}

void EngineMetrics::SetPolicyBytes(std::span<const PolicyBytes> bytes) {
  if (registry_ == nullptr) return;
  for (size_t i = policy_bytes_.size(); i < bytes.size(); ++i) {
    policy_bytes_.push_back(registry_->gauge(metrics::kGpuPolicyBytes, {bytes[i].kind}));
  }
  for (size_t i = 0; i < bytes.size(); ++i) policy_bytes_[i].Set(static_cast<double>(bytes[i].bytes));
}

}  // namespace tributary
