#include "coordinator/core/coordinator_core.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using Level = action::Log::Level;

MembershipOptions MembershipOptionsOf(const CoordinatorConfig& config) {
  return {config.protocol_version, config.node_timeout_ns / 2, config.node_timeout_ns, config.forget_after_ns};
}

}  // namespace

std::string_view action::OutcomeName(Outcome outcome) {
  switch (outcome) {
    case Outcome::kOk:
      return "ok";
    case Outcome::kCancelled:
      return "cancelled";
    case Outcome::kRejected:
      return "rejected";
    case Outcome::kFailed:
      return "failed";
  }
  return "unknown";
}

std::string_view action::LeaseEndName(LeaseEnd end) {
  switch (end) {
    case LeaseEnd::kContinued:
      return "continued";
    case LeaseEnd::kExpired:
      return "expired";
    case LeaseEnd::kCancelled:
      return "cancelled";
    case LeaseEnd::kLost:
      return "lost";
    case LeaseEnd::kDrained:
      return "drained";
  }
  return "unknown";
}

CoordinatorCore::CoordinatorCore(const CoordinatorConfig& config)
    : config_(config),
      membership_(MembershipOptionsOf(config)),
      ledger_(config.orphan_grace_ns, config.close_retry_ns),
      next_sequence_id_(config.first_id),
      next_shard_id_(config.first_id) {}

std::vector<Action> CoordinatorCore::Step(Event event, int64_t now_ns) {
  now_ns_ = now_ns;
  std::visit([this](auto& e) { On(e); }, event);
  StartQueued();
  SendSteps();
  return std::exchange(actions_, {});
}

void CoordinatorCore::On(event::Register& e) {
  std::vector<MemberChange> changes;
  absl::Status status = membership_.Register(e.node, now_ns_, &changes);
  if (!status.ok()) {
    Log(Level::kWarn, "refused node '{}': {}", e.node.node_id, std::string(status.message()));
  }
  ApplyChanges(changes);
  actions_.push_back(action::ReplyRegister{e.call, std::move(status), membership_.epoch()});
}

void CoordinatorCore::On(event::Heartbeat& e) {
  std::vector<MemberChange> changes;
  absl::Status status = membership_.Heartbeat(e.node_id, e.incarnation, e.free_bytes,
                                              static_cast<uint32_t>(e.shards.size()), e.draining, now_ns_, &changes);
  ApplyChanges(changes);
  std::vector<ShardId> orphans;
  if (status.ok()) orphans = ledger_.OnReport(e.node_id, e.shards, now_ns_);
  if (!orphans.empty()) {
    Log(Level::kWarn, "node '{}' holds {} shards of no live sequence; it frees them", e.node_id, orphans.size());
  }
  actions_.push_back(action::ReplyHeartbeat{e.call, std::move(status), membership_.epoch(), std::move(orphans)});
}

void CoordinatorCore::On(event::WorkerHello& e) {
  if (workers_.contains(e.stream)) return;  // a second hello changes nothing
  std::vector<MemberChange> changes;
  const absl::Status status = membership_.Register(e.node, now_ns_, &changes);
  if (!status.ok()) {
    Log(Level::kWarn, "refused worker '{}': {}", e.node.node_id, std::string(status.message()));
    actions_.push_back(action::CloseStream{e.stream, status});
    return;
  }
  ApplyChanges(changes);
  // The same process over a new stream: it has stopped what came over the old one.
  for (const auto& [stream, worker] : workers_) {
    if (worker.node_id != e.node.node_id) continue;
    actions_.push_back(
        action::CloseStream{stream, absl::AbortedError("the worker opened another stream; this one is over")});
    DropWorker(stream, "opened its stream anew");
    break;
  }
  const uint32_t max_batch = e.node.max_batch == 0 ? limits::kMaxBatch : std::min(e.node.max_batch, limits::kMaxBatch);
  workers_.emplace(e.stream, Worker{e.node.node_id, e.node.incarnation, StepScheduler(max_batch)});
  actions_.push_back(action::Welcome{e.stream, membership_.epoch()});
}

void CoordinatorCore::On(event::WorkerHeartbeat& e) {
  const auto it = workers_.find(e.stream);
  if (it == workers_.end()) return;
  std::vector<MemberChange> changes;
  const absl::Status status =
      membership_.Heartbeat(it->second.node_id, it->second.incarnation, e.free_bytes, 0, e.draining, now_ns_, &changes);
  if (!status.ok()) return;
  ApplyChanges(changes);
}

void CoordinatorCore::On(event::WorkerLost& e) {
  const auto it = workers_.find(e.stream);
  if (it == workers_.end()) return;
  std::vector<MemberChange> changes;
  membership_.Leave(it->second.node_id, it->second.incarnation, &changes);
  DropWorker(e.stream, "is gone: its stream ended");
  ApplyChanges(changes);
}

void CoordinatorCore::On(event::Tick& e) {
  std::vector<MemberChange> changes;
  membership_.Tick(now_ns_, &changes);
  ApplyChanges(changes);
  GiveUpStalledWorkers();
  EndExpired();
  for (const Holding& holding : ledger_.TakeDueCloses(now_ns_)) SendClose(holding);
  for (const SequenceId id : sequences_.Ids()) {
    SequenceEntry* sequence = sequences_.Find(id);
    if (sequence->state != SequencePhase::kStopping) continue;
    if (now_ns_ - sequence->stopping_since_ns < config_.stop_timeout_ns) continue;
    Log(Level::kWarn, "worker '{}' did not confirm the stop of sequence {}; closing its shards", sequence->worker_id,
        id.value);
    Release(*sequence);
  }
}

void CoordinatorCore::ApplyChanges(const std::vector<MemberChange>& changes) {
  for (const MemberChange& change : changes) {
    const NodeDescription& node = change.node;
    Log(change.state == MemberState::kAlive ? Level::kInfo : Level::kWarn, "{} '{}' is {}", NodeRoleName(node.role),
        node.node_id, MemberStateName(change.state));
    if (change.state == MemberState::kDraining) EndDraining();
    if (change.state != MemberState::kDead) continue;
    if (node.role == NodeRole::kCpuAttention) {
      DropNode(node);
      continue;
    }
    for (const auto& [stream, worker] : workers_) {
      if (worker.node_id != node.node_id || worker.incarnation != node.incarnation) continue;
      actions_.push_back(
          action::CloseStream{stream, absl::UnavailableError("no heartbeat in time, or another process took this node "
                                                             "id; connect again")});
      DropWorker(stream, "is dead: no sign of life in time");
      break;
    }
  }
}

void CoordinatorCore::DropNode(const NodeDescription& node) {
  // First the ledger, so that failing sequences does not send closes to a dead node.
  ledger_.DropNode(node.node_id);
  for (const SequenceId id : sequences_.Ids()) {
    SequenceEntry* sequence = sequences_.Find(id);
    if (!LosesShard(*sequence, node)) continue;
    FailLost(*sequence, fmt::format("CPU attention node '{}' holds KV of this request and is dead", node.node_id));
  }
}

bool CoordinatorCore::LosesShard(SequenceEntry& sequence, const NodeDescription& node) {
  bool loses = false;
  for (ShardPlacement& shard : sequence.shards) {
    const size_t num_gone = std::erase_if(shard.holders, [&](const NodeEndpoint& holder) {
      return holder.node_id == node.node_id && holder.incarnation == node.incarnation;
    });
    // While shards are being opened, every holder is needed; later, one of them is enough.
    loses |= num_gone > 0 && (shard.holders.empty() || sequence.state == SequencePhase::kOpening);
  }
  return loses;
}

void CoordinatorCore::DropWorker(StreamId stream, const std::string& why) {
  const auto it = workers_.find(stream);
  if (it == workers_.end()) return;
  const std::string node_id = it->second.node_id;
  const std::set<SequenceId> ids = std::move(it->second.sequences);
  workers_.erase(it);
  for (const SequenceId id : ids) {
    SequenceEntry* sequence = sequences_.Find(id);
    sequence->worker.reset();
    FailLost(*sequence, fmt::format("GPU worker '{}' {}", node_id, why));
  }
}

void CoordinatorCore::FailLost(SequenceEntry& sequence, const std::string& why) {
  EndLease(sequence, action::LeaseEnd::kLost, absl::UnavailableError(why));
  const char* what = sequence.num_turns > 1 ? "all tokens as a new request" : "the request again";
  Fail(sequence, absl::UnavailableError(fmt::format("{}; send {}", why, what)), action::Outcome::kFailed);
}

bool CoordinatorCore::HangsInPrefill(const Worker& worker) {
  return std::any_of(worker.sequences.begin(), worker.sequences.end(), [&](SequenceId id) {
    const SequenceEntry* sequence = sequences_.Find(id);
    return sequence->state == SequencePhase::kPrefilling &&
           now_ns_ - std::max(sequence->started_ns, worker.heard_ns) >= config_.stall_timeout_ns;
  });
}

void CoordinatorCore::HeardOf(StreamId stream) {
  if (const auto it = workers_.find(stream); it != workers_.end()) it->second.heard_ns = now_ns_;
}

void CoordinatorCore::GiveUpStalledWorkers() {
  std::vector<std::pair<StreamId, std::string>> stalled;  // and at what
  for (const auto& [stream, worker] : workers_) {
    const std::optional<int64_t> sent_ns = worker.scheduler.oldest_sent_ns();
    if (sent_ns && now_ns_ - *sent_ns >= config_.stall_timeout_ns) {
      stalled.emplace_back(stream, "step");
    } else if (HangsInPrefill(worker)) {
      stalled.emplace_back(stream, "prefill");
    }
  }
  for (const auto& [stream, what] : stalled) {
    const Worker& worker = workers_.at(stream);
    std::vector<MemberChange> changes;
    membership_.Leave(worker.node_id, worker.incarnation, &changes);
    actions_.push_back(action::CloseStream{
        stream, absl::DeadlineExceededError(fmt::format("a {} was not answered in time; connect again", what))});
    DropWorker(stream,
               fmt::format("did not answer a {} within {:.1f} s", what, SecondsFromNs(config_.stall_timeout_ns)));
    ApplyChanges(changes);
  }
}

ClusterRoom CoordinatorCore::Room() const {
  ClusterRoom room;
  for (const auto& [stream, worker] : workers_) {
    const Member* member = membership_.Find(worker.node_id);
    if (member == nullptr || !member->may_return()) continue;
    const uint64_t capacity = member->node.kv_capacity_bytes;
    room.workers.push_back({worker.node_id, capacity, capacity - std::min(capacity, worker.resident_bytes),
                            static_cast<uint32_t>(worker.sequences.size()), member->node.max_token_stripes,
                            member->usable()});
  }
  for (const auto& [id, member] : membership_.members()) {
    if (member.node.role != NodeRole::kCpuAttention || !member.may_return()) continue;
    const uint64_t capacity = member.node.kv_capacity_bytes;
    room.nodes.push_back({{id, member.node.incarnation, member.node.control_address},
                          capacity,
                          capacity - std::min(capacity, ledger_.UsedBytes(id)),
                          member.node.extent_bytes,
                          member.usable()});
  }
  return room;
}

std::optional<ServingLimits> CoordinatorCore::Limits() const {
  std::optional<ServingLimits> limits;
  const auto lower = [](auto& limit, auto value) {
    if (value != 0 && (limit == 0 || value < limit)) limit = value;
  };
  for (const auto& [stream, worker] : workers_) {
    const Member* member = membership_.Find(worker.node_id);
    if (member == nullptr || !member->may_return()) continue;
    if (!limits) limits.emplace().geometry = member->node.geometry;
    lower(limits->max_context_tokens, member->node.max_context_tokens);
    lower(limits->max_prompt_tokens, member->node.max_prompt_tokens);
  }
  return limits;
}

ClusterStatus CoordinatorCore::status() const {
  ClusterStatus status;
  status.membership_epoch = membership_.epoch();
  status.geometry = membership_.geometry();
  status.kept = KeptStatuses();
  status.running = NumPlaced() - static_cast<uint32_t>(status.kept.size());
  status.waiting = static_cast<uint32_t>(queue_.size());
  status.shards = static_cast<uint32_t>(ledger_.size());
  status.finished = num_finished_;
  status.failed = num_failed_;
  for (const auto& [id, member] : membership_.members()) {
    MemberStatus entry{member};
    const uint64_t capacity = member.node.kv_capacity_bytes;
    if (member.node.role == NodeRole::kCpuAttention) {
      entry.shards = ledger_.NumShards(id);
      entry.available_bytes = capacity - std::min(capacity, ledger_.UsedBytes(id));
    }
    for (const auto& [stream, worker] : workers_) {
      if (worker.node_id != id) continue;
      entry.sequences = static_cast<uint32_t>(worker.sequences.size());
      entry.available_bytes = capacity - std::min(capacity, worker.resident_bytes);
    }
    status.members.push_back(std::move(entry));
  }
  return status;
}

}  // namespace tributary
