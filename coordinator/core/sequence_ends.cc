#include "coordinator/core/sequence_ends.h"

#include <utility>

#include "base/clock.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using action::LeaseEnd;
using action::Outcome;

// Of a rebuild that the client's answer ends.
action::RebuildResult RebuildResultOf(const action::Finish& finish) {
  if (finish.outcome == Outcome::kOk) return action::RebuildResult::kOk;
  return finish.outcome == Outcome::kCancelled ? action::RebuildResult::kCancelled : action::RebuildResult::kFailed;
}

}  // namespace

void SequenceEnds::FinishTurn(SequenceEntry& sequence, SequenceSummary summary, std::optional<KeptLease> kept) {
  action::Finish finish{*sequence.client, absl::OkStatus(), Outcome::kOk};
  finish.summary.sequence = std::move(summary);
  finish.summary.queue_s = SecondsFromNs(sequence.placed_ns - sequence.received_ns);
  if (sequence.first_token_ns != 0) {
    finish.summary.ttft_s = SecondsFromNs(sequence.first_token_ns - sequence.received_ns);
  }
  finish.summary.kept = std::move(kept);
  Answer(sequence, std::move(finish));
}

void SequenceEnds::Answer(SequenceEntry& sequence, action::Finish finish) {
  finish.duration_ns = parts_.now_ns - sequence.received_ns;
  finish.prompt_tokens = sequence.demand.prompt_tokens;
  if (const auto& cause = sequence.rebuild.cause) parts_.out.Push(action::EndRebuild{*cause, RebuildResultOf(finish)});
  if (absl::IsResourceExhausted(finish.status)) finish.retry_delay_ns = parts_.RetryDelay();
  if (finish.outcome == Outcome::kOk) {
    ++parts_.num_finished;
    parts_.queue.OnFinished(SecondsFromNs(finish.duration_ns));
  } else if (finish.outcome == Outcome::kFailed) {
    ++parts_.num_failed;
  }
  parts_.out.Push(std::move(finish));
  sequence.rebuild.cause.reset();
  sequence.rebuild.waits_since_ns.reset();
  sequence.rebuild.waited_ns = 0;
  sequence.stall = {};
  parts_.sequences.DetachClient(sequence);
}

void SequenceEnds::Fail(SequenceEntry& sequence, const absl::Status& status, Outcome outcome) {
  if (sequence.client) Answer(sequence, {*sequence.client, status, outcome});
  EndLease(sequence, outcome == Outcome::kCancelled ? LeaseEnd::kCancelled : LeaseEnd::kLost, status);
  if (sequence.phase() == SequencePhase::kStopping && sequence.worker) return;  // its word is still awaited
  if (sequence.life.Allows(SequenceEvent::kStop) && sequence.worker) {
    sequence.life.Advance(SequenceEvent::kStop);
    sequence.stopping_since_ns = parts_.now_ns;
    parts_.out.Push(action::StopSequence{*sequence.worker, {sequence.id, sequence.epoch}});
    parts_.workers.Find(*sequence.worker)->scheduler.Leave(sequence.id);
    return;
  }
  const bool has_place = sequence.phase() != SequencePhase::kQueued && sequence.phase() != SequencePhase::kShelved;
  const bool worker_is_gone = has_place && !sequence.worker;
  Release(sequence, worker_is_gone ? SequenceEvent::kWorkerGone : SequenceEvent::kDropped);
}

void SequenceEnds::FailLost(SequenceEntry& sequence, const std::string& why) {
  EndLease(sequence, LeaseEnd::kLost, absl::UnavailableError(why));
  const char* what = sequence.num_turns > 1 ? "all tokens as a new request" : "the request again";
  Fail(sequence, absl::UnavailableError(fmt::format("{}; send {}", why, what)), Outcome::kFailed);
}

void SequenceEnds::OnWorkerEnded(SequenceEntry& sequence, SequenceEnded ended) {
  if (ended.status.ok()) {
    if (sequence.client) FinishTurn(sequence, std::move(ended.summary), std::nullopt);
    EndLease(sequence, LeaseEnd::kLost, absl::NotFoundError("its last request did not ask to keep it"));
  } else if (sequence.phase() != SequencePhase::kStopping) {
    parts_.out.Warn("sequence {} failed on worker '{}': {}", sequence.id.value, sequence.worker_id,
                    ended.status.ToString());
    if (sequence.client) Answer(sequence, {*sequence.client, ended.status, Outcome::kFailed});
    EndLease(sequence, LeaseEnd::kLost, ended.status);
  }
  Release(sequence, SequenceEvent::kEnded);
}

void SequenceEnds::EndLease(SequenceEntry& sequence, LeaseEnd end, const absl::Status& why) {
  if (!parts_.leases.End(sequence.id, std::string(why.message()))) return;
  parts_.sequences.ForgetName(sequence);
  if (!sequence.is_kept()) return;
  parts_.out.Push(action::EndLease{sequence.request_id, sequence.id, end});
  const std::string text = fmt::format("sequence {} ('{}') is not kept any more: {}", sequence.id.value,
                                       sequence.request_id, std::string(why.message()));
  if (end == LeaseEnd::kLost) {
    parts_.out.Warn("{}", text);
  } else {
    parts_.out.Info("{}", text);
  }
}

void SequenceEnds::EndKept(SequenceEntry& sequence, LeaseEnd end, const absl::Status& why) {
  EndLease(sequence, end, why);
  Fail(sequence, why, Outcome::kFailed);
}

void SequenceEnds::EndExpired() {
  for (const SequenceId id : parts_.leases.Expired(parts_.now_ns)) {
    const double lease_s = SecondsFromNs(parts_.leases.lease_ns(id));
    EndKept(*parts_.sequences.Find(id), LeaseEnd::kExpired,
            absl::NotFoundError(fmt::format("its lease of {:.3f} s has expired", lease_s)));
  }
}

void SequenceEnds::EndDraining() {
  for (const SequenceId id : parts_.sequences.Ids()) {
    SequenceEntry& sequence = *parts_.sequences.Find(id);
    if (!sequence.is_kept()) continue;
    if (const absl::Status drains = Drains(sequence); !drains.ok()) EndKept(sequence, LeaseEnd::kDrained, drains);
  }
}

absl::Status SequenceEnds::Drains(const SequenceEntry& sequence) const {
  const auto drains = [&](const std::string& node_id) {
    const Member* member = parts_.membership.Find(node_id);
    return member != nullptr && member->state == MemberState::kDraining;
  };
  if (parts_.draining) return absl::UnavailableError("the coordinator is shutting down");
  if (drains(sequence.worker_id)) {
    return absl::UnavailableError(fmt::format("its GPU worker '{}' is shutting down", sequence.worker_id));
  }
  for (const ShardPlacement& shard : sequence.shards) {
    for (const NodeEndpoint& holder : shard.holders) {
      if (!drains(holder.node_id)) continue;
      return absl::UnavailableError(
          fmt::format("CPU attention node '{}', which holds KV of it, is shutting down", holder.node_id));
    }
  }
  return absl::OkStatus();
}

void SequenceEnds::GiveUpStops() {
  for (const SequenceId id : parts_.sequences.Ids()) {
    SequenceEntry& sequence = *parts_.sequences.Find(id);
    if (sequence.phase() != SequencePhase::kStopping) continue;
    if (parts_.now_ns - sequence.stopping_since_ns < parts_.config.stop_timeout_ns) continue;
    parts_.out.Warn("worker '{}' did not confirm the stop of sequence {}; closing its shards", sequence.worker_id,
                    id.value);
    Release(sequence, SequenceEvent::kStopTimedOut);
  }
}

void SequenceEnds::Release(SequenceEntry& sequence, SequenceEvent why) {
  parts_.queue.Remove(sequence.id);
  sequence.life.Advance(why);
  parts_.shards.Close(sequence.id, sequence.shards, parts_.out);
  if (sequence.worker) parts_.workers.Release(*sequence.worker, sequence.id, sequence.resident_bytes);
  if (sequence.has_token_ids) parts_.token_ids -= sequence.reserved_context_tokens;
  parts_.sequences.Erase(sequence.id);
}

}  // namespace tributary
