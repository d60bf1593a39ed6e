// The coordinator's metric handles (telemetry/metric_names.h).
#pragma once

#include <array>

#include "coordinator/core/coordinator_core.h"
#include "telemetry/metrics.h"

namespace tributary {

class CoordinatorMetrics {
 public:
  explicit CoordinatorMetrics(MetricRegistry& registry);

  void Observe(const action::Tokens& tokens);
  void Observe(const action::Finish& finish);
  void Observe(const action::EndLease& lease);
  void Observe(const action::EndRebuild& rebuild);
  void Observe(const ClusterStatus& status);

 private:
  static constexpr size_t kNumRoles = 2;
  static constexpr size_t kNumStates = 4;

  std::array<Counter, 4> requests_;  // by action::Outcome
  Counter rejected_invalid_, rejected_exhausted_, rejected_unavailable_, rejected_draining_;
  Histogram request_duration_, time_to_first_token_, inter_token_latency_;
  Counter prompt_tokens_, generated_tokens_;
  Gauge running_, waiting_, stalled_, membership_epoch_, shards_;
  Gauge kept_sequences_, kept_resident_bytes_, kept_shard_bytes_;
  std::array<Counter, action::kNumLeaseEnds> leases_ended_;
  std::array<std::array<Counter, action::kNumRebuildResults>, action::kNumRebuildCauses> rebuilds_;
  std::array<std::array<Gauge, kNumStates>, kNumRoles> members_;
};

}  // namespace tributary
