#include "coordinator/core/node_watch.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "fmt/format.h"

namespace tributary {

void NodeWatch::On(event::Register& e) {
  std::vector<MemberChange> changes;
  absl::Status status = parts_.membership.Register(e.node, parts_.patient_now_ns, &changes);
  if (!status.ok()) parts_.out.Warn("refused node '{}': {}", e.node.node_id, std::string(status.message()));
  Apply(changes);
  parts_.out.Push(action::ReplyRegister{e.call, std::move(status), parts_.membership.epoch()});
}

void NodeWatch::On(event::Heartbeat& e) {
  const NodeHeartbeat& heartbeat = e.heartbeat;
  std::vector<MemberChange> changes;
  absl::Status status = parts_.membership.Heartbeat(heartbeat.node_id, heartbeat.incarnation, heartbeat.free_bytes,
                                                    static_cast<uint32_t>(heartbeat.shards.size()), heartbeat.draining,
                                                    parts_.patient_now_ns, &changes);
  if (status.ok() && heartbeat.leaving) {
    parts_.membership.Leave(heartbeat.node_id, heartbeat.incarnation, &changes);
  }
  Apply(changes);
  std::vector<ShardId> orphans;
  if (status.ok()) orphans = parts_.shards.OnReport(heartbeat, parts_.now_ns);
  if (!orphans.empty()) {
    parts_.out.Warn("node '{}' holds {} shards of no live sequence; it frees them", heartbeat.node_id, orphans.size());
  }
  parts_.out.Push(action::ReplyHeartbeat{e.call, std::move(status), parts_.membership.epoch(), std::move(orphans)});
}

void NodeWatch::On(event::WorkerHello& e) {
  if (parts_.workers.Find(e.stream) != nullptr) return;  // a second hello changes nothing
  std::vector<MemberChange> changes;
  const absl::Status status = parts_.membership.Register(e.node, parts_.patient_now_ns, &changes);
  if (!status.ok()) {
    parts_.out.Warn("refused worker '{}': {}", e.node.node_id, std::string(status.message()));
    parts_.out.Push(action::CloseStream{e.stream, status});
    return;
  }
  Apply(changes);
  // The same process over a new stream: it has stopped what came over the old one.
  if (const std::optional<StreamId> old = parts_.workers.StreamOf(e.node.node_id)) {
    parts_.out.Push(
        action::CloseStream{*old, absl::AbortedError("the worker opened another stream; this one is over")});
    DropWorker(*old, "opened its stream anew");
  }
  parts_.workers.Add(e.stream, e.node);
  parts_.out.Push(action::Welcome{e.stream, parts_.membership.epoch()});
}

void NodeWatch::On(event::WorkerHeartbeat& e) {
  const WorkerPool::Worker* worker = parts_.workers.Find(e.stream);
  if (worker == nullptr) return;
  std::vector<MemberChange> changes;
  const absl::Status status =
      parts_.membership.Heartbeat(worker->node_id, worker->incarnation, e.load.resident_free_bytes, 0, e.load.draining,
                                  parts_.patient_now_ns, &changes);
  if (status.ok()) Apply(changes);
}

void NodeWatch::On(event::WorkerLost& e) {
  const WorkerPool::Worker* worker = parts_.workers.Find(e.stream);
  if (worker == nullptr) return;
  std::vector<MemberChange> changes;
  parts_.membership.Leave(worker->node_id, worker->incarnation, &changes);
  DropWorker(e.stream, "is gone: its stream ended");
  Apply(changes);
}

void NodeWatch::Suspect(const std::string& node_id) {
  std::vector<MemberChange> changes;
  parts_.membership.Suspect(node_id, &changes);
  Apply(changes);
}

void NodeWatch::Tick() {
  std::vector<MemberChange> changes;
  parts_.membership.Tick(parts_.patient_now_ns, &changes);
  Apply(changes);
  GiveUpStalledWorkers();
}

void NodeWatch::Apply(const std::vector<MemberChange>& changes) {
  for (const MemberChange& change : changes) {
    const NodeDescription& node = change.node;
    const std::string text = fmt::format("{} '{}' is {}", NodeRoleName(node.role), node.node_id,
                                         change.is_gone ? "gone" : MemberStateName(change.state));
    if (change.state == MemberState::kAlive) {
      parts_.out.Info("{}", text);
    } else {
      parts_.out.Warn("{}", text);
    }
    if (change.state == MemberState::kDraining) ends_.EndDraining();
    if (node.role == NodeRole::kGpuWorker) {
      ApplyToWorker(change);
    } else if (change.is_gone) {
      DropNode(node);
      parts_.workers.NodeCameAnew(node.node_id);
    }
  }
}

void NodeWatch::ApplyToWorker(const MemberChange& change) {
  const std::optional<StreamId> stream = parts_.workers.StreamOf(change.node.node_id);
  if (!stream || parts_.workers.Find(*stream)->incarnation != change.node.incarnation) return;
  if (change.is_gone) {
    parts_.out.Push(action::CloseStream{
        *stream, absl::UnavailableError("another process took this node id, or it was forgotten; connect again")});
    DropWorker(*stream, "is gone");
  } else if (change.state == MemberState::kSuspect || change.state == MemberState::kDead) {
    stalls_.WorkerFellSilent(*stream);
  } else {
    stalls_.WorkerSpoke(*stream);
  }
}

void NodeWatch::DropNode(const NodeDescription& node) {
  // First what it held, so that failing sequences does not send closes to a dead node.
  parts_.shards.DropNode(node.node_id);
  for (const SequenceId id : parts_.sequences.Ids()) {
    SequenceEntry& sequence = *parts_.sequences.Find(id);
    if (!RemoveHolder(sequence.shards, node)) continue;
    // While shards are being opened every holder is needed; later, one of each shard is enough.
    const bool is_lost =
        sequence.phase() == SequencePhase::kOpening ||
        std::any_of(sequence.shards.begin(), sequence.shards.end(), [](const auto& s) { return s.holders.empty(); });
    if (!is_lost) continue;
    rebuilds_.OnLost(sequence,
                     {action::RebuildCause::kNode, node.node_id,
                      fmt::format("CPU attention node '{}' held KV of this request and is gone", node.node_id)});
  }
}

void NodeWatch::DropWorker(StreamId stream, const std::string& why) {
  const std::string node_id = parts_.workers.Find(stream)->node_id;
  parts_.workers.Remove(stream);
  for (const SequenceId id : parts_.sequences.Ids()) {
    SequenceEntry* sequence = parts_.sequences.FindOn(stream, id);
    if (sequence == nullptr) continue;
    sequence->worker.reset();
    rebuilds_.OnLost(*sequence,
                     {action::RebuildCause::kWorker, node_id, fmt::format("GPU worker '{}' {}", node_id, why)});
  }
}

// One that is silent does not hang: it is waited for.
bool NodeWatch::IsHeardOf(const WorkerPool::Worker& worker) const {
  const Member* member = parts_.membership.Find(worker.node_id);
  return member != nullptr && (member->usable() || member->state == MemberState::kDraining);
}

bool NodeWatch::HangsInPrefill(StreamId stream, const WorkerPool::Worker& worker) const {
  bool hangs = false;
  parts_.sequences.ForEach([&](const SequenceEntry& sequence) {
    if (sequence.worker != stream || sequence.phase() != SequencePhase::kPrefilling) return;
    hangs |= parts_.now_ns - std::max(sequence.started_ns, worker.heard_ns) >= parts_.config.stall_timeout_ns;
  });
  return hangs;
}

void NodeWatch::GiveUpStalledWorkers() {
  const int64_t timeout_ns = parts_.config.stall_timeout_ns;
  std::vector<std::pair<StreamId, std::string>> stalled;  // and at what
  for (const auto& [stream, worker] : parts_.workers.all()) {
    if (!IsHeardOf(worker)) continue;
    const std::optional<int64_t> sent_ns = worker.scheduler.oldest_sent_ns();
    if (sent_ns && parts_.now_ns - *sent_ns >= timeout_ns) {
      stalled.emplace_back(stream, "step");
    } else if (HangsInPrefill(stream, worker)) {
      stalled.emplace_back(stream, "prefill");
    }
  }
  for (const auto& [stream, what] : stalled) {
    const WorkerPool::Worker& worker = *parts_.workers.Find(stream);
    std::vector<MemberChange> changes;
    parts_.membership.Leave(worker.node_id, worker.incarnation, &changes);
    parts_.out.Push(action::CloseStream{
        stream, absl::DeadlineExceededError(fmt::format("a {} was not answered in time; connect again", what))});
    DropWorker(stream, fmt::format("did not answer a {} within {:.1f} s", what, SecondsFromNs(timeout_ns)));
    Apply(changes);
  }
}

}  // namespace tributary
