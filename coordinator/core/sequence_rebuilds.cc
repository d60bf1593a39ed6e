#include "coordinator/core/sequence_rebuilds.h"

#include <utility>

#include "base/clock.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using action::RebuildResult;

// Its client waits for tokens of it.
bool IsWaitedFor(const SequenceEntry& sequence) {
  switch (sequence.phase()) {
    case SequencePhase::kOpening:
    case SequencePhase::kPrefilling:
    case SequencePhase::kDecoding:
    case SequencePhase::kRecalled:
      return sequence.client.has_value();
    case SequencePhase::kQueued:
    case SequencePhase::kKept:
    case SequencePhase::kShelved:
    case SequencePhase::kStopping:
    case SequencePhase::kGone:
      break;
  }
  return false;
}

// What the node held is gone or cannot be had; other errors would come again elsewhere.
bool IsLoss(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) || absl::IsDataLoss(status);
}

bool HasTokens(const SequenceEntry& sequence) {
  return !sequence.answer_tokens.empty() || !sequence.past_turns.empty();
}

}  // namespace

void SequenceRebuilds::OnLost(SequenceEntry& sequence, const Loss& loss) {
  const bool has_worker = sequence.worker.has_value();
  if (sequence.phase() == SequencePhase::kRecalled) {
    if (!has_worker) OnLetGo(sequence);
    return;  // else it is on its way already
  }
  if (!IsWaitedFor(sequence) && !sequence.is_kept()) return ends_.FailLost(sequence, loss.why);
  if (const absl::Status may = MayRebuild(sequence); !may.ok()) {
    CountRefused(sequence, loss.cause);
    return ends_.FailLost(sequence, fmt::format("{}; {}", loss.why, std::string(may.message())));
  }
  if (sequence.is_kept()) {
    Note(sequence, loss);
    return has_worker ? Recall(sequence) : Shelve(sequence);
  }
  Begin(sequence, loss);
  const bool worker_has_it = has_worker && sequence.phase() != SequencePhase::kOpening;
  return worker_has_it ? Recall(sequence) : Requeue(sequence);
}

bool SequenceRebuilds::OnPlaceFailed(SequenceEntry& sequence, const std::string& node_id, absl::Status& status) {
  if (!IsLoss(status) || (!IsWaitedFor(sequence) && !sequence.is_kept())) return false;
  const Loss loss{action::RebuildCause::kNode, node_id, std::string(status.message())};
  if (const absl::Status may = MayRebuild(sequence); !may.ok()) {
    CountRefused(sequence, loss.cause);
    status = absl::Status(status.code(), fmt::format("{}; {}", loss.why, std::string(may.message())));
    return false;
  }
  if (sequence.is_kept()) {
    Note(sequence, loss);
    Shelve(sequence);
  } else {
    Begin(sequence, loss);
    Requeue(sequence);
  }
  return true;
}

void SequenceRebuilds::OnLetGo(SequenceEntry& sequence) { sequence.is_kept() ? Shelve(sequence) : Requeue(sequence); }

void SequenceRebuilds::OnContinued(SequenceEntry& sequence) {
  const SequenceRebuild& rebuild = sequence.rebuild;
  Begin(sequence, {rebuild.lost_with, rebuild.lost_node_id, rebuild.why});
  sequence.life.Advance(SequenceEvent::kContinued);
  if (sequence.phase() == SequencePhase::kQueued) parts_.queue.PushFront(sequence.id);
}

void SequenceRebuilds::CountRefused(const SequenceEntry& sequence, action::RebuildCause cause) {
  // One that was being rebuilt counts when its client is answered.
  if (!sequence.rebuild.cause) parts_.out.Push(action::EndRebuild{cause, RebuildResult::kRefused});
}

absl::Status SequenceRebuilds::MayRebuild(const SequenceEntry& sequence) const {
  if (!sequence.has_token_ids) {
    return absl::UnavailableError(fmt::format(
        "it cannot be rebuilt: this coordinator keeps {} token ids of all requests together, and had no room "
        "for those of this one",
        parts_.config.max_token_ids));
  }
  if (sequence.rebuild.count >= kMaxRebuilds) {
    return absl::UnavailableError(fmt::format("it has been rebuilt {} times already", sequence.rebuild.count));
  }
  // To be computed again takes time, too: what stood still until now is not begun anew in the last moment.
  if (WaitedNs(sequence) >= sequence.max_stall_ns - sequence.max_stall_ns / 10) {
    return absl::UnavailableError("it has stood still for about as long as it may (max_stall)");
  }
  return absl::OkStatus();
}

int64_t SequenceRebuilds::WaitedNs(const SequenceEntry& sequence) const {
  const SequenceRebuild& rebuild = sequence.rebuild;
  if (rebuild.waits_since_ns) return rebuild.waited_ns + parts_.patient_now_ns - *rebuild.waits_since_ns;
  if (rebuild.cause || !sequence.stall.told) return rebuild.waited_ns;
  return parts_.patient_now_ns - sequence.stall.told_ns;
}

void SequenceRebuilds::Begin(SequenceEntry& sequence, const Loss& loss) {
  parts_.out.Warn("request '{}' is computed again from its tokens: {}", sequence.request_id, loss.why);
  SequenceRebuild& rebuild = sequence.rebuild;
  rebuild.waited_ns = WaitedNs(sequence);
  rebuild.waits_since_ns = parts_.patient_now_ns;
  rebuild.cause = loss.cause;
  rebuild.why_waiting.clear();
  ++rebuild.count;
  Note(sequence, loss);
  stalls_.BeginRebuild(sequence, loss.node_id);
}

void SequenceRebuilds::Note(SequenceEntry& sequence, const Loss& loss) {
  sequence.rebuild.lost_with = loss.cause;
  sequence.rebuild.lost_node_id = loss.node_id;
  sequence.rebuild.why = loss.why;
}

void SequenceRebuilds::Recall(SequenceEntry& sequence) {
  sequence.life.Advance(SequenceEvent::kRecall);
  parts_.workers.Find(*sequence.worker)->scheduler.Leave(sequence.id);
  parts_.out.Push(action::StopSequence{*sequence.worker, {sequence.id, sequence.epoch}});
}

void SequenceRebuilds::Shelve(SequenceEntry& sequence) {
  parts_.out.Warn("kept sequence {} ('{}') loses KV, and is computed again when it is continued: {}", sequence.id.value,
                  sequence.request_id, sequence.rebuild.why);
  LeavePlace(sequence);
  sequence.life.Advance(SequenceEvent::kShelved);
}

void SequenceRebuilds::Requeue(SequenceEntry& sequence) {
  LeavePlace(sequence);
  sequence.life.Advance(SequenceEvent::kPlaceLost);
  parts_.queue.PushFront(sequence.id);
}

void SequenceRebuilds::LeavePlace(SequenceEntry& sequence) {
  parts_.shards.Close(sequence.id, sequence.shards, parts_.out);
  if (sequence.worker) parts_.workers.Release(*sequence.worker, sequence.id, sequence.resident_bytes);
  sequence.worker.reset();
  sequence.worker_id.clear();
  sequence.resident_bytes = 0;
  sequence.demand.cut.clear();
  if (HasTokens(sequence)) {
    for (const ShardPlacement& shard : sequence.shards) sequence.demand.cut.push_back(shard.spec);
  }
  sequence.shards.clear();
}

void SequenceRebuilds::HasPlace(SequenceEntry& sequence) {
  sequence.rebuild.waited_ns = WaitedNs(sequence);
  sequence.rebuild.waits_since_ns.reset();
}

void SequenceRebuilds::OnTokens(SequenceEntry& sequence) {
  SequenceRebuild& rebuild = sequence.rebuild;
  if (!rebuild.cause || sequence.phase() == SequencePhase::kRecalled) return;
  parts_.out.Push(action::EndRebuild{*rebuild.cause, RebuildResult::kOk});
  rebuild.cause.reset();
  rebuild.waited_ns = 0;
  stalls_.EndRebuild(sequence);
}

void SequenceRebuilds::EndTooLong() {
  for (const SequenceId id : parts_.sequences.Ids()) {
    SequenceEntry& sequence = *parts_.sequences.Find(id);
    const SequenceRebuild& rebuild = sequence.rebuild;
    if (!rebuild.waits_since_ns || WaitedNs(sequence) < sequence.max_stall_ns) continue;
    const std::string why = rebuild.why_waiting.empty() ? "its shards were not opened" : rebuild.why_waiting;
    ends_.FailLost(sequence, fmt::format("{}; its KV could not be rebuilt within {:.1f} s, as long as this request may "
                                         "wait (max_stall): {}",
                                         rebuild.why, SecondsFromNs(sequence.max_stall_ns), why));
  }
}

}  // namespace tributary
