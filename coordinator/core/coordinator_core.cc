#include "coordinator/core/coordinator_core.h"

#include <algorithm>
#include <utility>

namespace tributary {

CoordinatorCore::CoordinatorCore(const CoordinatorConfig& config)
    : parts_(config),
      ends_(&parts_),
      stalls_(&parts_, &ends_),
      rebuilds_(&parts_, &ends_, &stalls_),
      watch_(&parts_, &ends_, &stalls_, &rebuilds_),
      turns_(&parts_, &ends_, &watch_, &rebuilds_),
      intake_(&parts_, &ends_, &turns_, &rebuilds_) {}

template <typename E>
void CoordinatorCore::On(E& e) {
  if constexpr (requires { watch_.On(e); }) {
    watch_.On(e);
  } else if constexpr (requires { stalls_.On(e); }) {
    stalls_.On(e);
  } else if constexpr (requires { turns_.On(e); }) {
    turns_.On(e);
  } else {
    intake_.On(e);
  }
}

std::vector<Action> CoordinatorCore::Step(Event event, int64_t now_ns) {
  parts_.now_ns = now_ns;
  parts_.patient_now_ns = parts_.patience.Advance(now_ns);
  std::visit([this](auto& e) { On(e); }, event);
  intake_.StartQueued();
  turns_.SendSteps();
  return parts_.out.Take();
}

void CoordinatorCore::On(event::Tick& e) {
  watch_.Tick();
  stalls_.EndTooLong();
  rebuilds_.EndTooLong();
  ends_.EndExpired();
  parts_.shards.RetryCloses(parts_.now_ns, parts_.out);
  ends_.GiveUpStops();
}

ClusterStatus CoordinatorCore::status() const {
  ClusterStatus status;
  status.membership_epoch = parts_.membership.epoch();
  status.geometry = parts_.membership.geometry();
  status.kept = KeptStatuses();
  status.running = parts_.num_placed() - static_cast<uint32_t>(status.kept.size());
  status.waiting = static_cast<uint32_t>(parts_.queue.size());
  const ShardLedger& ledger = parts_.shards.ledger();
  status.shards = static_cast<uint32_t>(ledger.size());
  status.finished = parts_.num_finished;
  status.failed = parts_.num_failed;
  parts_.sequences.ForEach([&](const SequenceEntry& sequence) { status.stalled += sequence.stall.told ? 1 : 0; });
  for (const auto& [id, member] : parts_.membership.members()) {
    MemberStatus entry{member};
    entry.member.last_heard_ns += parts_.now_ns - parts_.patient_now_ns;
    const uint64_t capacity = member.node.kv_capacity_bytes;
    const auto left = [&](uint64_t used_bytes) { return capacity - std::min(capacity, used_bytes); };
    if (member.node.role == NodeRole::kCpuAttention) {
      entry.shards = ledger.NumShards(id);
      entry.available_bytes = left(ledger.UsedBytes(id));
    }
    if (const std::optional<StreamId> stream = parts_.workers.StreamOf(id)) {
      const WorkerPool::Worker& worker = *parts_.workers.Find(*stream);
      entry.sequences = worker.sequences;
      entry.available_bytes = left(worker.resident_bytes);
    }
    status.members.push_back(std::move(entry));
  }
  return status;
}

std::vector<KeptStatus> CoordinatorCore::KeptStatuses() const {
  std::vector<KeptStatus> kept;
  parts_.sequences.ForEach([&](const SequenceEntry& sequence) {
    if (!sequence.is_kept()) return;
    kept.push_back({.request_id = sequence.request_id,
                    .sequence_id = sequence.id,
                    .worker_id = sequence.worker_id,
                    .kept_until_ns = parts_.leases.held_until_ns(sequence.id),
                    .context_tokens = sequence.context_tokens,
                    .reserved_context_tokens = sequence.reserved_context_tokens,
                    .resident_bytes = sequence.resident_bytes,
                    .shard_bytes = parts_.shards.BytesOf(sequence.shards)});
  });
  return kept;
}

}  // namespace tributary
