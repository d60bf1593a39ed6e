#include "coordinator/core/coordinator_metrics.h"

#include "base/clock.h"

namespace tributary {

CoordinatorMetrics::CoordinatorMetrics(MetricRegistry& registry)
    : rejected_invalid_(registry.counter(metrics::kAdmissionRejected, {"invalid"})),
      rejected_exhausted_(registry.counter(metrics::kAdmissionRejected, {"exhausted"})),
      rejected_unavailable_(registry.counter(metrics::kAdmissionRejected, {"unavailable"})),
      rejected_draining_(registry.counter(metrics::kAdmissionRejected, {"draining"})),
      request_duration_(registry.histogram(metrics::kRequestDuration)),
      time_to_first_token_(registry.histogram(metrics::kTimeToFirstToken)),
      inter_token_latency_(registry.histogram(metrics::kInterTokenLatency)),
      prompt_tokens_(registry.counter(metrics::kPromptTokens)),
      generated_tokens_(registry.counter(metrics::kGeneratedTokens)),
      running_(registry.gauge(metrics::kRequestsRunning)),
      waiting_(registry.gauge(metrics::kRequestsWaiting)),
      stalled_(registry.gauge(metrics::kRequestsStalled)),
      membership_epoch_(registry.gauge(metrics::kMembershipEpoch)),
      shards_(registry.gauge(metrics::kCoordinatorShards)),
      kept_sequences_(registry.gauge(metrics::kKeptSequences)),
      kept_resident_bytes_(registry.gauge(metrics::kKeptBytes, {"gpu_worker"})),
      kept_shard_bytes_(registry.gauge(metrics::kKeptBytes, {"cpu_attention"})) {
  for (size_t i = 0; i < leases_ended_.size(); ++i) {
    leases_ended_[i] = registry.counter(metrics::kLeasesEnded, {LeaseEndName(static_cast<action::LeaseEnd>(i))});
  }
  for (size_t cause = 0; cause < rebuilds_.size(); ++cause) {
    for (size_t result = 0; result < rebuilds_[cause].size(); ++result) {
      rebuilds_[cause][result] =
          registry.counter(metrics::kSequenceRebuilds, {RebuildCauseName(static_cast<action::RebuildCause>(cause)),
                                                        RebuildResultName(static_cast<action::RebuildResult>(result))});
    }
  }
  for (size_t i = 0; i < requests_.size(); ++i) {
    requests_[i] = registry.counter(metrics::kRequests, {OutcomeName(static_cast<action::Outcome>(i))});
  }
  for (size_t role = 0; role < kNumRoles; ++role) {
    for (size_t state = 0; state < kNumStates; ++state) {
      members_[role][state] = registry.gauge(metrics::kMembers, {NodeRoleName(static_cast<NodeRole>(role)),
                                                                 MemberStateName(static_cast<MemberState>(state))});
    }
  }
}

void CoordinatorMetrics::Observe(const action::Tokens& tokens) {
  const double seconds = SecondsFromNs(tokens.since_last_ns);
  (tokens.first ? time_to_first_token_ : inter_token_latency_).Observe(seconds);
  generated_tokens_.Increment(static_cast<double>(tokens.tokens.tokens.size()));
}

void CoordinatorMetrics::Observe(const action::Finish& finish) {
  requests_[static_cast<size_t>(finish.outcome)].Increment();
  if (finish.outcome != action::Outcome::kRejected) {
    request_duration_.Observe(SecondsFromNs(finish.duration_ns));
    prompt_tokens_.Increment(static_cast<double>(finish.prompt_tokens));
    return;
  }
  if (finish.reject_reason == "invalid") rejected_invalid_.Increment();
  if (finish.reject_reason == "exhausted") rejected_exhausted_.Increment();
  if (finish.reject_reason == "unavailable") rejected_unavailable_.Increment();
  if (finish.reject_reason == "draining") rejected_draining_.Increment();
}

void CoordinatorMetrics::Observe(const action::EndLease& lease) {
  leases_ended_[static_cast<size_t>(lease.end)].Increment();
}

void CoordinatorMetrics::Observe(const action::EndRebuild& rebuild) {
  rebuilds_[static_cast<size_t>(rebuild.cause)][static_cast<size_t>(rebuild.result)].Increment();
}

void CoordinatorMetrics::Observe(const ClusterStatus& status) {
  uint64_t resident_bytes = 0, shard_bytes = 0;
  for (const KeptStatus& kept : status.kept) {
    resident_bytes += kept.resident_bytes;
    shard_bytes += kept.shard_bytes;
  }
  kept_sequences_.Set(static_cast<double>(status.kept.size()));
  kept_resident_bytes_.Set(static_cast<double>(resident_bytes));
  kept_shard_bytes_.Set(static_cast<double>(shard_bytes));
  running_.Set(status.running);
  waiting_.Set(status.waiting);
  stalled_.Set(status.stalled);
  shards_.Set(status.shards);
  membership_epoch_.Set(static_cast<double>(status.membership_epoch));
  std::array<std::array<int, kNumStates>, kNumRoles> counts{};
  for (const MemberStatus& member : status.members) {
    ++counts[static_cast<size_t>(member.member.node.role)][static_cast<size_t>(member.member.state)];
  }
  for (size_t role = 0; role < kNumRoles; ++role) {
    for (size_t state = 0; state < kNumStates; ++state) {
      members_[role][state].Set(counts[role][state]);
    }
  }
}

}  // namespace tributary
